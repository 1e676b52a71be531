#include "hypervisor/mover/mover.h"

#include "hypervisor/link/transport_report.h"
#include "hypervisor/mover/privileges.h"
#include "transport/loader.h"
#include "transport/uri.h"

#include <spdlog/spdlog.h>

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <new>

namespace pageferry::hypervisor {

using nlohmann::json;
using statemachine::Cause;
using statemachine::Side;
using statemachine::Status;

namespace {
constexpr std::chrono::milliseconds start_timeout{10'000};
} // namespace

Mover::~Mover() {
    if (engine_.joinable()) {
        cancel_engine();
        engine_.join();
    }
    source_.reset();
    recovery_.reset();
    destination_.reset();
    if (page_ != nullptr) {
        ::munmap(page_, engine::ControlPage::size);
    }
}

Result<void> Mover::run() {
    if (auto prepared = prepare(); !prepared) {
        // Nothing was begun: the monitor process answers its user with this.
        spdlog::error("{}", prepared.error().to_string());
        std::ignore = link_.send({{"type", "refused"}, {"error", to_json(prepared.error())}});
        return prepared;
    }
    start_engine();
    return serve();
}

Result<void> Mover::prepare() {
    PAGEFERRY_TRY(drop_privileges());
    auto message = link_.receive(start_timeout);
    if (!message) {
        return std::unexpected(std::move(message.error()));
    }
    if (!*message) {
        return std::unexpected(make_error(ErrorCode::timed_out, "wait for", "start message", "the monitor process sent none"));
    }
    auto start = mover_start_from((*message)->body);
    if (!start) {
        return std::unexpected(std::move(start.error()));
    }
    start_ = std::move(*start);
    auto handles = take_handles(start_, std::move((*message)->fds));
    if (!handles) {
        return std::unexpected(std::move(handles.error()));
    }
    PAGEFERRY_TRY(map_control_page(handles->control_page));
    if (handles->discards) {
        auto mapped = map_discards(handles->discards);
        if (!mapped) {
            return std::unexpected(std::move(mapped.error()));
        }
        discards_ = std::move(*mapped);
    }
    auto blocks = map_blocks(handles->files);
    if (!blocks) {
        return std::unexpected(std::move(blocks.error()));
    }
    done_ = Fd{::eventfd(0, EFD_CLOEXEC)};
    if (!done_) {
        return std::unexpected(errno_error(errno, "eventfd", "mover"));
    }
    machine_.emplace(start_.side, events_, start_.again ? start_.status : Status::none);
    if (!start_.again) {
        PAGEFERRY_TRY(machine_->transition(Status::setup, Cause::requested));
    }
    PAGEFERRY_TRY(load_transports());
    if (start_.side == Side::destination) {
        return prepare_destination(std::move(*handles), std::move(*blocks));
    }
    return start_.again ? prepare_recovery(std::move(*blocks)) : prepare_source(std::move(handles->tracking), std::move(*blocks));
}

Result<std::vector<memory::RamBlock>> Mover::map_blocks(std::span<Fd> files) {
    std::vector<memory::RamBlock> blocks;
    for (std::size_t i = 0; i < start_.blocks.size(); ++i) {
        auto block = memory::RamBlock::map(start_.blocks[i], std::move(files[i]));
        if (!block) {
            return std::unexpected(std::move(block.error()));
        }
        blocks.push_back(std::move(*block));
    }
    return blocks;
}

Result<void> Mover::map_control_page(const Fd& memory) {
    void* mapped = ::mmap(nullptr, engine::ControlPage::size, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
    if (mapped == MAP_FAILED) {
        return std::unexpected(errno_error(errno, "mmap", "control page"));
    }
    // The monitor process made the object in this memory: every field is a lock-free atomic, the same in both processes.
    page_ = std::launder(static_cast<engine::ControlPage*>(mapped));
    return {};
}

namespace {

Result<transport::Transport> load_transport(const std::string& text, std::span<const std::filesystem::path> first) {
    const auto uri = transport::parse_uri(text);
    if (!uri) {
        return std::unexpected(uri.error());
    }
    return transport::load(uri->scheme, first);
}

transport::Options options_of(const MoverStart& start) {
    std::uint64_t memory = 0;
    for (const auto& block : start.blocks) {
        memory += block.length;
    }
    return transport::Options{.lanes = start.lanes,
                              .dead_peer = start.dead_peer,
                              .handshake = start.dead_peer,
                              .queue_depth = 0,
                              .epoch = start.epoch,
                              .session = start.session,
                              .memory_bytes = memory};
}

} // namespace

std::vector<engine::Candidate> Mover::candidates_of(const std::vector<std::string>& uris) const {
    const std::vector<std::filesystem::path> first{start_.transport_path.begin(), start_.transport_path.end()};
    std::vector<engine::Candidate> candidates;
    for (const auto& uri : uris) {
        candidates.push_back(engine::Candidate{.uri = uri, .transport = load_transport(uri, first)});
    }
    return candidates;
}

// All of them before any thread is started. One that is not there is reported where another can take its place.
Result<void> Mover::load_transports() {
    candidates_ = candidates_of(start_.uris);
    std::vector<engine::Attempt> failed;
    for (const auto& candidate : candidates_) {
        if (!candidate.transport) {
            failed.push_back(engine::Attempt{.uri = candidate.uri, .phase = "load", .error = candidate.transport.error()});
        }
    }
    if (failed.size() == candidates_.size()) {
        return std::unexpected(engine::none_left(failed));
    }
    return {};
}

engine::PeerConfig Mover::peer_of() {
    std::optional<Error> no_pinning;
    if (!start_.no_pinning.empty()) {
        no_pinning = make_error(ErrorCode::unsupported, "migrate", "guest RAM", start_.no_pinning,
                                "let it go by tcp, or start the guest without that");
    }
    return engine::PeerConfig{.candidates = std::move(candidates_),
                              .options = options_of(start_),
                              .connect_timeout = start_.connect_timeout,
                              .no_pinning = std::move(no_pinning),
                              .tell = [this](const engine::TransportUse& use) { report_transport(use); }};
}

namespace {

std::vector<FailedTransport> failed_of(const std::vector<engine::Attempt>& attempts) {
    std::vector<FailedTransport> failed;
    failed.reserve(attempts.size());
    for (const auto& attempt : attempts) {
        failed.push_back(FailedTransport{
            .uri = attempt.uri, .phase = attempt.phase, .reason = attempt.error.reason, .error_desc = attempt.error.to_string()});
    }
    return failed;
}

} // namespace

// On the engine's thread. The monitor process has it before the state that follows from it.
void Mover::report_transport(const engine::TransportUse& use) {
    for (; attempts_logged_ < use.attempts.size(); ++attempts_logged_) {
        const auto& attempt = use.attempts[attempts_logged_];
        spdlog::warn("{} cannot be used ({}): {}", attempt.uri, attempt.phase, attempt.error.to_string());
    }
    TransportReport report{.candidate = {}, .uri = {}, .name = {}, .connection = {}, .attempts = failed_of(use.attempts)};
    if (use.connected) {
        spdlog::info("the migration goes by {}: {}", use.uri, use.connection);
        report.candidate = use.candidate;
        report.uri = use.uri;
        report.name = use.name;
        report.connection = use.connection;
        report.lanes = use.lanes;
    }
    if (const auto sent = link_.send(to_json(report)); !sent) {
        spdlog::error("{}", sent.error().to_string());
    }
}

Result<void> Mover::prepare_source(memory::TrackingHandles handles, std::vector<memory::RamBlock> blocks) {
    auto tracker = memory::make_dirty_tracker(std::move(handles));
    if (!tracker) {
        return std::unexpected(std::move(tracker.error()));
    }
    for (const auto& candidate : candidates_) {
        spdlog::info("source: to {} by {}, dirty tracking by {}", candidate.uri,
                     candidate.transport ? candidate.transport->name() : "a plugin that is not there", (*tracker)->name());
    }
    source_ = std::make_unique<engine::Source>(engine::SourceConfig{.blocks = std::move(blocks),
                                                                    .tracker = std::move(*tracker),
                                                                    .peer = peer_of(),
                                                                    .pause_before_switchover = start_.pause_before_switchover,
                                                                    .postcopy = start_.postcopy,
                                                                    .page = page_,
                                                                    .discards = discards_.get()},
                                               port_, *machine_);
    return link_.send({{"type", "ready"}});
}

Result<void> Mover::prepare_recovery(std::vector<memory::RamBlock> blocks) {
    recovery_ = std::make_unique<engine::Recovery>(
        engine::RecoveryConfig{.blocks = std::move(blocks), .peer = peer_of(), .running = start_.guest_runs, .page = page_},
        *machine_);
    return link_.send({{"type", "ready"}});
}

Result<void> Mover::prepare_destination(StartHandles handles, std::vector<memory::RamBlock> blocks) {
    std::optional<engine::PostcopyMeans> postcopy;
    if (start_.postcopy) {
        std::vector<memory::RamBlockInfo> infos;
        infos.reserve(blocks.size());
        for (const auto& block : blocks) {
            infos.push_back(block.info());
        }
        auto pages = memory::PageMap::map(infos, handles.page_map);
        if (!pages) {
            return std::unexpected(std::move(pages.error()));
        }
        auto faults = memory::FaultRegions::make(std::move(handles.faults), blocks);
        if (!faults) {
            return std::unexpected(std::move(faults.error()));
        }
        postcopy =
            engine::PostcopyMeans{.pages = std::move(*pages), .faults = std::move(*faults), .vcpu_threads = start_.vcpu_threads};
    }
    auto options = options_of(start_);
    options.session = {}; // whichever source comes first; the engine looks at the sessions of later ones
    options.epoch = 0;
    std::optional<engine::Unsettled> unsettled;
    if (start_.again) {
        unsettled = engine::Unsettled{
            .session = start_.session, .epoch = start_.epoch, .ran = start_.guest_runs, .postcopy = start_.postcopy};
    }
    destination_ =
        std::make_unique<engine::Destination>(
            engine::DestinationConfig{
                .blocks = std::move(blocks), // its elements stay where they are: faults point to them
                .reception = {
                    .candidates = std::move(candidates_),
                    .options = options,
                    .tell = [this](const engine::TransportUse& use) { report_transport(use); },
                    // One that has left by itself is nothing to look into: libvirt's own connection does so (passed_sockets.h).
                    .turned_away =
                        [](const Error& error) {
                            spdlog::log(error.code == ErrorCode::closed ? spdlog::level::info : spdlog::level::warn,
                                        "turned away: {}", error.to_string());
                        }},
                .page = page_,
                .postcopy = std::move(postcopy),
                .unsettled = unsettled,
                .accepted =
                    [this](const transport::SessionId& session, std::uint32_t epoch) {
                        std::ignore = link_.send({{"type", "accepted"}, {"session", session_text(session)}, {"epoch", epoch}});
                    }},
            port_, *machine_);
    const auto uris = destination_->listen();
    if (!uris) {
        return std::unexpected(uris.error());
    }
    for (const auto& uri : *uris) {
        spdlog::info("destination: listening on {}", uri);
    }
    for (const auto& attempt : destination_->attempts()) {
        spdlog::warn("not listening on {}: {}", attempt.uri, attempt.error.to_string());
    }
    attempts_logged_ = destination_->attempts().size();
    return link_.send({{"type", "ready"}, {"uris", *uris}, {"attempts", to_json(failed_of(destination_->attempts()))}});
}

void Mover::start_engine() {
    engine_ = std::thread{[this] {
        const auto result = run_engine();
        if (result) {
            spdlog::info("the migration has completed");
        } else {
            spdlog::error("{}", result.error().to_string());
        }
        const std::uint64_t one = 1;
        [[maybe_unused]] const auto written = ::write(done_.get(), &one, sizeof one);
    }};
    pthread_setname_np(engine_.native_handle(), "pf-engine");
}

Result<void> Mover::run_engine() {
    if (recovery_) {
        return recovery_->run();
    }
    return source_ ? source_->run() : destination_->run();
}

void Mover::cancel_engine() {
    port_.cancel();
    if (source_) {
        source_->cancel();
    }
    if (recovery_) {
        recovery_->cancel();
    }
    if (destination_) {
        destination_->cancel();
    }
}

void Mover::pause_engine() {
    if (source_) {
        source_->pause();
    }
    if (recovery_) {
        recovery_->pause();
    }
    if (destination_) {
        destination_->pause();
    }
}

// migrate-recover: besides where it listens already.
void Mover::listen_also(const LinkMessage& message) {
    json answer{{"type", "listening"}, {"id", message.number("id")}};
    const auto wanted = read_uris(message.body, "uris", most_candidates);
    auto uris = destination_ && !wanted.empty()
                    ? destination_->listen_also(candidates_of(wanted))
                    : Result<std::vector<std::string>>{std::unexpect, make_error(ErrorCode::invalid_argument, "listen", "mover",
                                                                                 "only a destination listens, and on something")};
    if (uris) {
        for (const auto& uri : *uris) {
            spdlog::info("destination: listening on {} too", uri);
        }
        answer["uris"] = *uris;
    } else {
        answer["error"] = to_json(uris.error());
    }
    if (const auto sent = link_.send(answer); !sent) {
        spdlog::error("{}", sent.error().to_string());
    }
}

Result<void> Mover::serve() {
    for (;;) {
        std::array<pollfd, 3> polled{pollfd{.fd = link_.fd(), .events = POLLIN, .revents = 0},
                                     pollfd{.fd = events_.readable_fd(), .events = POLLIN, .revents = 0},
                                     pollfd{.fd = done_.get(), .events = POLLIN, .revents = 0}};
        if (::poll(polled.data(), polled.size(), -1) < 0 && errno != EINTR) {
            return std::unexpected(errno_error(errno, "poll", "mover"));
        }
        const bool ended = polled[2].revents != 0;
        PAGEFERRY_TRY(report_states());
        if (ended) {
            // A destination that gives up while a source may still come has not ended: another mover takes its place.
            const bool open = destination_ && machine_->status() == Status::postcopy_paused;
            return open
                       ? std::unexpected(make_error(ErrorCode::state, "wait for", "the source", "this mover can do it no longer"))
                       : link_.send({{"type", "ended"}});
        }
        if (polled[0].revents != 0) {
            if (auto taken = take_message(); !taken) {
                // Nobody owns the guest any more: stop at once; what the peer must know it sees by our end.
                port_.lost();
                return taken;
            }
        }
    }
}

Result<void> Mover::take_message() {
    auto message = link_.receive(std::chrono::milliseconds{0});
    if (!message) {
        return std::unexpected(std::move(message.error()));
    }
    if (!*message) {
        return {};
    }
    const std::string type = (*message)->text("type");
    if (type == "cancel") {
        cancel_engine();
    } else if (type == "pause") {
        pause_engine();
    } else if (type == "start-postcopy") {
        if (source_) {
            source_->start_postcopy();
        }
    } else if (type == "listen") {
        listen_also(**message);
    } else {
        port_.deliver(std::move(**message));
    }
    return {};
}

Result<void> Mover::report_states() {
    const std::lock_guard lock{report_mutex_};
    while (auto event = events_.take()) {
        if (event->to == Status::setup) {
            continue; // the monitor process has said so itself
        }
        PAGEFERRY_TRY(link_.send({{"type", "status"},
                                  {"to", std::string{statemachine::name_of(event->to)}},
                                  {"cause", std::string{statemachine::name_of(event->cause)}},
                                  {"error", event->error}}));
    }
    return {};
}

} // namespace pageferry::hypervisor
