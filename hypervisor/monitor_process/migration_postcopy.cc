// The part of Migration that a postcopy needs, and every recovery: what outlives a mover, and the movers that come after it.
#include "hypervisor/monitor_process/migration.h"
#include "memory/page_map_layout.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace pageferry::hypervisor {

using nlohmann::json;
using statemachine::Cause;
using statemachine::Side;
using statemachine::Status;

namespace {
constexpr unsigned most_successors = 5; // a mover that dies again and again, and never hears of a source, will not do better

Error no_faults(const AgentHandles& handles) {
    const int error = handles.faults.empty() ? ENOSYS : handles.faults.front().error;
    return errno_error(
        error, "userfaultfd", "QEMU",
        "postcopy needs one that sees the kernel's own page faults: start QEMU as root, or give its user access to "
        "/dev/userfaultfd; or switch postcopy-ram off on both sides");
}
} // namespace

// Whether the kernel can do what is needed is for the mover to say, at migrate-incoming.
Result<void> Migration::postcopy_possible() {
    auto handles = agent_.handles();
    if (!handles) {
        return std::unexpected(std::move(handles.error()));
    }
    if (std::ranges::any_of(handles->faults, [](const AgentHandle& handle) { return static_cast<bool>(handle.fd); })) {
        return {};
    }
    return std::unexpected(no_faults(*handles));
}

bool Migration::is_postcopy_state() const {
    switch (status()) {
    case Status::postcopy_device:
    case Status::postcopy_active:
    case Status::postcopy_paused:
    case Status::postcopy_recover_setup:
    case Status::postcopy_recover: return true;
    default: return false;
    }
}

// --- what outlives a mover ---------------------------------------------------------------------------------------------------

// For the times that each virtual processor waits. Without them a postcopy works as well.
void Migration::with_vcpu_threads(std::function<void()> done) {
    held_.vcpu_threads.clear();
    if (!capabilities_.on("postcopy-ram")) {
        return done();
    }
    qmp_.execute("query-cpus-fast", json::object(), [this, done = std::move(done)](const Result<json>& answer) {
        if (answer && answer->is_array()) {
            for (const auto& cpu : *answer) {
                const auto thread = cpu.is_object() ? cpu.value("thread-id", std::uint32_t{0}) : 0U;
                if (held_.vcpu_threads.size() < most_vcpus) {
                    held_.vcpu_threads.push_back(thread);
                }
            }
        }
        done();
    });
}

Result<void> Migration::keep_means(AgentHandles& handles) {
    held_.faults.clear();
    for (auto& handle : handles.faults) {
        if (handle.fd) {
            held_.faults.push_back(std::move(handle.fd));
        }
    }
    if (held_.faults.empty()) {
        return std::unexpected(no_faults(handles));
    }
    const auto infos = held_.infos();
    held_.page_map = Fd{::memfd_create("pageferry-pages", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
    if (!held_.page_map || ::ftruncate(held_.page_map.get(), static_cast<off_t>(memory::page_map_bytes(infos))) != 0) {
        return std::unexpected(errno_error(errno, "memfd_create", "page map"));
    }
    return {};
}

// Nobody serves page faults any more: what waits for one goes on with what the file has. At the end of a postcopy nothing waits.
void Migration::release_means() {
    held_.blocks.clear();
    held_.page_map = {};
    if (!std::exchange(held_.faults, {}).empty()) {
        if (auto released = agent_.release_faults(); !released) {
            log_(released.error().to_string());
        }
    }
}

Result<void> Migration::drop_mappings() {
    for (const auto& block : held_.blocks) {
        PAGEFERRY_TRY(agent_.zap(block.info.guest_address, block.info.length));
    }
    return {};
}

// --- automatic recovery ------------------------------------------------------------------------------------------------------

void Migration::follow(Status to, Cause cause) {
    if (machine_->side() != Side::source) {
        return;
    }
    if (to == Status::active || to == Status::postcopy_active) {
        good_uris_ = uris_;
    }
    if (to == Status::postcopy_paused && std::exchange(recovering_, false) && cause != Cause::requested) {
        auto_recovery_.attempt_failed();
    } else if (to == Status::postcopy_paused) {
        auto_recovery_.paused(cause == Cause::requested);
    } else if (to == Status::postcopy_recover_setup) {
        recovering_ = true;
    } else if (to == Status::postcopy_active && std::exchange(recovering_, false)) {
        auto_recovery_.recovered();
    } else if (to == Status::completed) {
        auto_recovery_.stop();
    }
}

void Migration::attempt_by_itself() {
    if (preparing_ || status() != Status::postcopy_paused) {
        return auto_recovery_.attempt_failed();
    }
    resume(good_uris_, [this](const Result<void>& begun) {
        if (!begun) {
            log_("automatic recovery: " + begun.error().to_string());
            auto_recovery_.attempt_failed();
        }
    });
}

// --- the answer to `migrate resume` -------------------------------------------------------------------------------------------

// Where the outcome comes soon, its events come before the answer, and where it is a good one, the destination's too. libvirt up
// to 10.5 turns to the destination at the answer, and takes one of which it has only heard that it is paused for a failure.
void Migration::answer_resume_within(std::chrono::milliseconds limit) {
    if (!resume_reply_) {
        return;
    }
    resume_answer_.expires_after(limit);
    resume_answer_.async_wait([this](const boost::system::error_code& cut_short) {
        if (!cut_short) {
            answer_resume();
        }
    });
}

void Migration::answer_resume() {
    if (const auto reply = std::exchange(resume_reply_, nullptr)) {
        resume_answer_.cancel();
        reply({});
    }
}

// --- the movers after the first ----------------------------------------------------------------------------------------------

void Migration::resume(std::vector<std::string> uris, monitor::Reply reply) {
    end_mover(); // of the connection that broke: it has nothing to do any more
    preparing_ = true;
    uris_ = uris;
    reply_ = std::move(reply);
    epoch_ += most_candidates; // the latest mover may have used as many
    if (auto started = start_next_mover(Side::source, std::move(uris)); !started) {
        refuse(started.error());
    }
}

// The destination of an unsettled migration keeps listening where it did, whatever becomes of its mover.
void Migration::wait_for_source_again() {
    if (successors_ == most_successors) {
        return log_("no further mover is started: " + std::to_string(successors_) + " have died; migrate-recover starts one");
    }
    ++successors_;
    std::vector<std::string> uris = uris_;
    uris.insert(uris.end(), also_.begin(), also_.end());
    if (auto started = start_next_mover(Side::destination, std::move(uris)); !started) {
        log_("waiting for the source again: " + started.error().to_string());
    }
}

Result<void> Migration::start_next_mover(Side side, std::vector<std::string> uris) {
    MoverStart start = common_start(side, std::move(uris));
    start.again = true;
    start.status = side == Side::source ? Status::postcopy_recover_setup : status();
    start.postcopy = postcopy_ && (side == Side::source || held_.page_map);
    start.session = session_;
    start.epoch = epoch_;
    start.guest_runs = side == Side::source ? was_running_ : ran_;
    return spawn_mover(start, StartFds{.control_page = page_memory_.get(), .tracking = {}});
}

// --- commands ----------------------------------------------------------------------------------------------------------------

// Both sides find out by themselves that a connection is lost: the mover says so, as it says everything else.
void Migration::migrate_pause(monitor::Reply reply) {
    tell_mover({{"type", "pause"}});
    reply({});
}

void Migration::migrate_start_postcopy(monitor::Reply reply) {
    tell_mover({{"type", "start-postcopy"}});
    reply({});
}

void Migration::migrate_recover(const std::vector<std::string>& uris, monitor::Reply reply) {
    if (listen_reply_) {
        return reply(std::unexpected(make_error(ErrorCode::state, {}, {}, "another migrate-recover is under way")));
    }
    listen_reply_ = std::move(reply);
    if (mover_) {
        return tell_mover({{"type", "listen"}, {"id", ++listens_}, {"uris", uris}});
    }
    also_ = uris;
    successors_ = 0;
    wait_for_source_again();
    if (!mover_) {
        answer_listen(
            std::unexpected(make_error(ErrorCode::internal, "start", "mover", "it could not be started", "its log says why")));
    }
}

void Migration::mover_listens(const LinkMessage& message) {
    if (message.number("id") != listens_) {
        return;
    }
    if (const auto error = message.body.find("error"); error != message.body.end()) {
        return answer_listen(std::unexpected(error_from(*error)));
    }
    also_ = read_uris(message.body, "uris", most_candidates);
    answer_listen({});
}

void Migration::answer_listen(const Result<void>& result) {
    if (auto reply = std::exchange(listen_reply_, nullptr)) {
        reply(result);
    }
}

} // namespace pageferry::hypervisor
