#include "hypervisor/monitor_process/migration.h"

#include "hypervisor/monitor_process/guest_ram.h"
#include "hypervisor/monitor_process/query_migrate.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <boost/asio/post.hpp>

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

namespace pageferry::hypervisor {

using nlohmann::json;
using statemachine::Cause;
using statemachine::Side;
using statemachine::Status;

namespace {
constexpr std::chrono::seconds resume_reply_limit{2}; // for the answer to `migrate resume`

bool is_directory(const std::string& path) {
    struct stat status{};
    return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

// A device that gives guest memory back to the host at any time would have all that RDMA has pinned registered again and again;
// without the agent's counters nobody would know of it.
std::string why_no_pinning(const std::vector<std::string>& discarders, const AgentHandle& discards) {
    std::string names;
    for (const auto& device : discarders) {
        names += (names.empty() ? "" : ", ") + device;
    }
    if (!names.empty()) {
        return "its memory cannot stay pinned, for it is given back to the host at any time by " + names;
    }
    if (!discards.fd) {
        return "the agent in QEMU cannot see memory that is given back to the host (" +
               errno_error(discards.error, {}, {}).reason + ")";
    }
    return {};
}

Error not_now(const std::string& reason) {
    return make_error(ErrorCode::state, {}, {}, reason);
}
} // namespace

Migration::Migration(boost::asio::io_context& io, const MonitorConfig& config, std::string mover_program, Fd agent,
                     monitor::QmpBackend& qmp, const monitor::Capabilities& capabilities, const monitor::Parameters& parameters,
                     monitor::EventSink& sink, Log log)
    : io_(io), config_(config), mover_program_(std::move(mover_program)), agent_(std::move(agent)), qmp_(qmp),
      capabilities_(capabilities), parameters_(parameters), sink_(sink), log_(std::move(log)),
      qemu_(qmp, QemuDriver::Handlers{.stopped = [this] { tell_mover({{"type", "guest"}, {"what", "stopped"}}); },
                                      .ended = [this] { qemu_ended(); },
                                      .failed =
                                          [this](const Error& error) {
                                              tell_mover({{"type", "guest"}, {"what", "failed"}, {"error", to_json(error)}});
                                              if (machine_->side() == Side::destination) {
                                                  attempt_failed(error.to_string()); // QEMU ends with it: now or never
                                              }
                                          }}),
      machine_(std::make_unique<statemachine::Machine>(config.incoming_given ? Side::destination : Side::source, events_)),
      deadline_(io), auto_recovery_(io, {.attempt = [this] { attempt_by_itself(); }, .log = log_}), resume_answer_(io),
      incoming_(config.incoming_given && !config.incoming_native), autostart_(config.autostart) {}

Migration::~Migration() {
    mover_.reset();
    if (page_ != nullptr) {
        ::munmap(page_, engine::ControlPage::size);
    }
}

void Migration::qemu_event(const std::string& name, const json& event) {
    if (native_) {
        if (name == "MIGRATION" && event.is_object() && event.contains("data") && event["data"].is_object()) {
            native_event(event["data"].value("status", std::string{}));
        }
        return;
    }
    qemu_.event(name, event);
}

void Migration::migrate(const monitor::MigrateRequest& request, monitor::Reply reply) {
    if (preparing_) {
        return reply(std::unexpected(not_now("There's a migration process in progress")));
    }
    if (request.resume) {
        as_asked_ = request.as_asked;
        auto_recovery_.attempt_by_user();
        return resume(request.uris, [this, reply = std::move(reply)](const Result<void>& begun) {
            reply(begun);
            if (!begun) {
                auto_recovery_.attempt_failed(); // back to its own
            }
        });
    }
    if (!config_.untracked_writers.empty()) {
        std::string names;
        for (const auto& writer : config_.untracked_writers) {
            names += (names.empty() ? "" : ", ") + writer;
        }
        return reply(std::unexpected(make_error(
            ErrorCode::unsupported, "migrate", config_.guest_name,
            "devices write guest RAM from outside QEMU, where no page of theirs is seen: " + names, "unplug them first")));
    }
    preparing_ = true;
    qmp_.execute("query-status", json::object(), [this, request, reply = std::move(reply)](Result<json> answer) mutable {
        if (answer && answer->is_object() && answer->value("status", "") == "postmigrate") {
            preparing_ = false;
            return reply(std::unexpected(not_now("Can't migrate the vm that was paused due to previous migration")));
        }
        as_asked_ = request.as_asked;
        prepare(Side::source, request.uris, std::move(reply));
    });
}

void Migration::migrate_incoming(const monitor::IncomingRequest& request, monitor::Reply reply) {
    if (preparing_) {
        return reply(std::unexpected(not_now("The incoming migration has already been started")));
    }
    exit_on_error_ = request.exit_on_error;
    as_asked_ = request.as_asked;
    prepare(Side::destination, request.uris, std::move(reply));
}

void Migration::prepare(Side side, std::vector<std::string> uris, monitor::Reply reply) {
    end_mover(); // of an earlier migration whose source never came to say goodbye
    preparing_ = true;
    next_side_ = side;
    uris_ = std::move(uris);
    reply_ = std::move(reply);
    with_all_backends([this, mine = ++preparations_](Result<std::vector<RamBackend>> backends) {
        if (!preparing_ || mine != preparations_) {
            return;
        }
        if (!backends) {
            return refuse(backends.error());
        }
        const auto start = [this, mine, backends = std::move(*backends)](const Result<void>& ready) {
            if (!preparing_ || mine != preparations_) {
                return;
            }
            if (!ready) {
                return refuse(ready.error());
            }
            if (auto started = start_mover(backends); !started) {
                refuse(started.error());
            }
        };
        if (next_side_ == Side::source) {
            make_disks_buffered(start);
        } else {
            with_vcpu_threads([start] { start({}); });
        }
    });
}

void Migration::make_disks_buffered(std::function<void(Result<void>)> done) {
    disks_buffered_ = true;
    auto paths = agent_.make_disks_buffered();
    if (!paths || paths->empty()) {
        return done(paths ? Result<void>{} : std::unexpected(std::move(paths.error())));
    }
    for (const auto& path : *paths) {
        log_("through the page cache for the time of the migration: " + path);
    }
    // What was under way when they were switched still writes past the page tables. A transaction, also of nothing, drains all.
    qmp_.execute("transaction", {{"actions", json::array()}}, [done = std::move(done)](const Result<json>& drained) {
        done(drained ? Result<void>{} : std::unexpected(drained.error()));
    });
}

// At the switchover: the guest is stopped and all its I/O has ended.
Result<void> Migration::no_disk_became_direct() {
    auto paths = agent_.make_disks_buffered();
    if (!paths) {
        return std::unexpected(std::move(paths.error()));
    }
    if (paths->empty()) {
        return {};
    }
    return std::unexpected(make_error(
        ErrorCode::state, "migrate", paths->front(),
        "it was opened for direct I/O in the middle of the migration, and may have written guest RAM unseen", "migrate again"));
}

// What this side has done to QEMU for the time of a migration is undone.
void Migration::leave_guest_alone() {
    stop_tracking(tracking_, held_.infos());
    if (std::exchange(disks_buffered_, false)) {
        if (auto direct = agent_.make_disks_direct(); !direct) {
            log_(direct.error().to_string());
        }
    }
}

// The backends of the command line, and those that were added since (memory hotplug).
void Migration::with_all_backends(std::function<void(Result<std::vector<RamBackend>>)> done) {
    qmp_.execute("query-memdev", json::object(), [this, done = std::move(done)](Result<json> answer) {
        if (!answer) {
            return done(std::unexpected(std::move(answer.error())));
        }
        auto backends = std::make_shared<std::vector<RamBackend>>(config_.ram);
        std::vector<std::string> unknown;
        for (const auto& device : *answer) {
            const std::string id = device.is_object() ? device.value("id", std::string{}) : std::string{};
            const bool known = std::ranges::any_of(config_.ram, [&](const RamBackend& one) { return one.id == id; });
            if (!known && !id.empty()) {
                backends->push_back(RamBackend{.id = id, .size = device.value("size", std::uint64_t{0}), .mem_path = {}});
                unknown.push_back(id);
            }
        }
        if (unknown.empty()) {
            return done(std::move(*backends));
        }
        auto open = std::make_shared<std::size_t>(unknown.size());
        for (const auto& id : unknown) {
            qmp_.execute("qom-get", {{"path", "/objects/" + id}, {"property", "mem-path"}},
                         [backends, open, id, done](Result<json> path) {
                             const auto backend = std::ranges::find(*backends, id, &RamBackend::id);
                             backend->mem_path = path && path->is_string() ? path->get<std::string>() : std::string{};
                             backend->directory = is_directory(backend->mem_path);
                             if (--*open == 0) {
                                 done(std::move(*backends));
                             }
                         });
        }
    });
}

Result<void> Migration::start_mover(const std::vector<RamBackend>& backends) {
    auto handles = agent_.handles();
    if (!handles) {
        return std::unexpected(std::move(handles.error()));
    }
    auto mappings = agent_.mappings();
    if (!mappings) {
        return std::unexpected(std::move(mappings.error()));
    }
    auto blocks = find_guest_ram(backends, *mappings);
    if (!blocks) {
        return std::unexpected(std::move(blocks.error()));
    }
    held_.blocks = std::move(*blocks);
    PAGEFERRY_TRY(new_control_page());
    MoverStart start = common_start(next_side_, uris_);
    start.pause_before_switchover = capabilities_.on("pause-before-switchover");
    if (::getrandom(session_.data(), session_.size(), 0) != static_cast<ssize_t>(session_.size())) {
        return std::unexpected(errno_error(errno, "getrandom", "session id"));
    }
    start.session = session_;
    epoch_ = 0;
    postcopy_on_ = capabilities_.on("postcopy-ram");
    start.postcopy = postcopy_on_;
    StartFds fds{.control_page = page_memory_.get(), .tracking = {}};
    if (next_side_ == Side::source) {
        const auto give = [&fds](const AgentHandle& handle, bool& has) {
            has = static_cast<bool>(handle.fd);
            if (has) {
                fds.tracking.push_back(handle.fd.get());
            }
        };
        give(handles->tracking, start.has_userfaultfd);
        give(handles->pagemap, start.has_pagemap);
        give(handles->clear_refs, start.has_clear_refs);
        give(handles->discards, start.has_discards);
        start.no_pinning = why_no_pinning(config_.discarders, handles->discards);
        if (!start.has_userfaultfd && !start.has_clear_refs) {
            return std::unexpected(errno_error(handles->tracking.error, "userfaultfd", "QEMU",
                                               "start QEMU as root, or give its user access to /dev/userfaultfd"));
        }
        tracking_ = std::move(handles->tracking.fd);
    } else if (postcopy_on_) {
        PAGEFERRY_TRY(keep_means(*handles));
    }
    return spawn_mover(start, fds);
}

MoverStart Migration::common_start(Side side, std::vector<std::string> uris) const {
    return MoverStart{.side = side,
                      .uris = std::move(uris),
                      .lanes = parameters_.multifd_channels(),
                      .dead_peer = parameters_.dead_peer_timeout(),
                      .connect_timeout = parameters_.connect_timeout()};
}

Result<void> Migration::spawn_mover(const MoverStart& start, const StartFds& fds) {
    mover_said_ended_ = false;
    candidates_ = start.uris.size();
    const auto mine = ++mover_number_; // what an earlier one still says on its way out is not this one's
    auto mover = MoverProcess::start(io_, mover_program_,
                                     {.message =
                                          [this, mine](LinkMessage& message) {
                                              if (mine == mover_number_) {
                                                  mover_message(message);
                                              }
                                          },
                                      .ended =
                                          [this, mine](const std::string& how) {
                                              if (mine == mover_number_) {
                                                  mover_ended(how);
                                              }
                                          }});
    if (!mover) {
        return std::unexpected(std::move(mover.error()));
    }
    MoverStart with_holdings = start;
    const auto all = add_holdings(held_, fds, with_holdings);
    PAGEFERRY_TRY((*mover)->send(to_json(with_holdings), all));
    mover_ = std::move(*mover);
    return {};
}

Result<void> Migration::new_control_page() {
    // Its size is sealed: a mover that cut it short would end this process at its next look.
    Fd memory{::memfd_create("pageferry-control", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
    if (!memory || ::ftruncate(memory.get(), engine::ControlPage::size) != 0 ||
        ::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return std::unexpected(errno_error(errno, "memfd_create", "control page"));
    }
    void* mapped = ::mmap(nullptr, engine::ControlPage::size, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
    if (mapped == MAP_FAILED) {
        return std::unexpected(errno_error(errno, "mmap", "control page"));
    }
    if (page_ != nullptr) {
        ::munmap(page_, engine::ControlPage::size);
    }
    page_memory_ = std::move(memory);
    page_ = new (mapped) engine::ControlPage;
    parameters_changed(parameters_);
    return {};
}

void Migration::parameters_changed(const monitor::Parameters& parameters) {
    if (page_ != nullptr) {
        page_->limits.max_bandwidth = parameters.max_bandwidth();
        page_->limits.downtime_limit_ms = static_cast<std::uint64_t>(parameters.downtime_limit().count());
        page_->limits.switchover_bandwidth = parameters.avail_switchover_bandwidth();
        page_->limits.postcopy_bandwidth = parameters.max_postcopy_bandwidth();
    }
    auto_recovery_.set({.attempts = parameters.recover_attempts(),
                        .backoff = parameters.recover_backoff(),
                        .time_limit = parameters.recover_time_limit()});
}

// Nothing has begun: the user gets the reason, and everything is as it was.
void Migration::refuse(const Error& error) {
    preparing_ = false;
    end_mover();
    leave_guest_alone();
    log_("refused: " + error.to_string());
    std::exchange(reply_, nullptr)(std::unexpected(error));
}

// The mover is ready: the migration begins, or goes on. The event comes before the reply: libvirt depends on it.
void Migration::begun() {
    preparing_ = false;
    if (status() == Status::postcopy_paused) {
        resume_reply_ = std::exchange(reply_, nullptr);
        move(Status::postcopy_recover_setup, Cause::requested);
        return answer_resume_within(resume_reply_limit);
    }
    machine_ = std::make_unique<statemachine::Machine>(next_side_, events_);
    native_result_ = {};
    started_ = std::chrono::steady_clock::now();
    finished_.reset();
    was_running_ = true;
    committed_ = false;
    load_told_ = false;
    ran_ = false;
    successors_ = 0;
    postcopy_ = false;
    also_.clear();
    move(Status::setup, Cause::requested);
    std::exchange(reply_, nullptr)({});
}

void Migration::migrate_cancel(monitor::Reply reply) {
    if (preparing_ && next_side_ == Side::source && reply_) {
        refuse(make_error(ErrorCode::cancelled, "migrate", uris_.front(), "cancelled before it began"));
        return reply({});
    }
    const Status now = status();
    const bool can_be = now == Status::setup || now == Status::active || now == Status::pre_switchover || now == Status::device;
    // QEMU says nothing where there is nothing to cancel, and nothing where it is too late.
    if (machine_->side() == Side::source && can_be && !committed_) {
        move(Status::cancelling, Cause::requested);
        tell_mover({{"type", "cancel"}});
        clean_up();
    }
    reply({});
}

void Migration::migrate_continue(monitor::Reply reply) {
    tell_mover({{"type", "continue"}});
    reply({});
}

json Migration::query_migrate() const {
    if (!native_result_.is_null()) {
        return native_result_;
    }
    const auto end = finished_.value_or(std::chrono::steady_clock::now());
    return hypervisor::query_migrate(MigrationView{
        .side = machine_->side(),
        .status = machine_->status(),
        .error = machine_->error(),
        .total_time = std::chrono::duration_cast<std::chrono::milliseconds>(end - started_),
        .progress = page_ != nullptr ? &page_->progress : nullptr,
        .postcopy = page_ != nullptr && postcopy_ ? &page_->postcopy : nullptr,
        .postcopy_blocktime = capabilities_.on("postcopy-blocktime"),
        .blocked_reasons = config_.untracked_writers,
        .listening = machine_->side() == Side::destination &&
                             (status() == Status::setup || status() == Status::active || status() == Status::postcopy_paused)
                         ? std::span<const std::string>{uris_}
                         : std::span<const std::string>{},
        .history = &history_,
        .transport = &transport_});
}

Result<bool> Migration::hold_run_state(bool run) {
    if (incoming_) {
        autostart_ = run;
        return true;
    }
    if (machine_->side() == Side::destination) {
        return false;
    }
    // The guest stands still for the switchover: what the user wants holds for wherever it goes on.
    const Status now = status();
    if (now == Status::pre_switchover || ((now == Status::device || now == Status::postcopy_device) && !committed_)) {
        was_running_ = run;
        return true;
    }
    if (run && (is_postcopy_state() || (committed_ && now == Status::device))) {
        // It runs, or will run, at the destination. QEMU's words.
        return std::unexpected(not_now("Migration is not finalized yet"));
    }
    return false;
}

void Migration::begin_native(bool incoming, monitor::Reply reply) {
    qemu_.use_settings_of(capabilities_, parameters_, [this, incoming, reply = std::move(reply)](Result<void> set) {
        if (!set) {
            return reply(std::move(set));
        }
        native_ = true;
        native_incoming_ = incoming;
        reply({});
    });
}

void Migration::native_refused() {
    native_ = false;
}

void Migration::native_event(const std::string& status) {
    if (status != "completed" && status != "failed" && status != "cancelled") {
        return;
    }
    // QEMU's figures are the answer to query-migrate until the next migration of ours.
    qmp_.execute("query-migrate", json::object(), [this, completed = status == "completed"](Result<json> answer) {
        native_result_ = json::object();
        if (answer) {
            native_result_.swap(*answer);
        }
        native_ = false;
        if (native_incoming_ && completed && std::exchange(incoming_, false) && autostart_) {
            qemu_.run([](const Result<void>&) {}); // it was held by the -S of ours
        }
    });
}

} // namespace pageferry::hypervisor
