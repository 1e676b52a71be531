#include "engine/recovery.h"

#include "engine/answer_timeout.h"
#include "engine/shared_ram.h"

#include <tuple>
#include <utility>

namespace pageferry::engine {

namespace session = transport::session;
using statemachine::Cause;
using statemachine::Status;

Recovery::Recovery(RecoveryConfig config, statemachine::Machine& machine)
    : config_(std::move(config)), machine_(machine), peer_(std::move(config_.peer)), service_(peer_, *config_.page) {}

Result<void> Recovery::run() {
    auto done = recover();
    if (!done) {
        done = std::unexpected(peer_.cause(done.error()));
        std::ignore = machine_.transition(Status::postcopy_paused, peer_.cancelled() ? Cause::requested : Cause::connection_lost,
                                          done.error().to_string());
    }
    return done;
}

// On each transport that is tried, for one that cannot have the memory is not the one.
Result<void> Recovery::share_memory() {
    return peer_.connection().add_memory(shared_blocks(config_.blocks, PF_MEMORY_PULL_SOURCE));
}

Result<void> Recovery::recover() {
    PAGEFERRY_TRY(peer_.connect([this] { return share_memory(); }));
    PAGEFERRY_TRY(machine_.transition(Status::postcopy_recover, Cause::connected));
    PAGEFERRY_TRY(peer_.send(ram_table(config_.blocks)));
    PAGEFERRY_TRY(service_.tell_limit());
    const auto resume = peer_.expect<session::Resume>(answer_timeout);
    if (!resume) {
        return std::unexpected(resume.error());
    }
    std::uint64_t total = 0;
    for (const auto& block : config_.blocks) {
        total += block.info().length;
    }
    if (resume->missing > total) {
        return std::unexpected(make_error(ErrorCode::protocol, "read Resume", std::to_string(resume->missing) + " bytes",
                                          "the destination misses more than there is"));
    }
    PAGEFERRY_TRY(machine_.transition(Status::postcopy_active, Cause::connected));
    if (!resume->runs) {
        PAGEFERRY_TRY(peer_.send(session::Permit{.running = config_.running}));
        const auto running = service_.expect<session::Running>(answer_timeout);
        if (!running) {
            return std::unexpected(running.error());
        }
    }
    PAGEFERRY_TRY(service_.until_received());
    PAGEFERRY_TRY(machine_.transition(Status::completed, Cause::finished));
    std::ignore = peer_.send(session::Goodbye{}); // the destination has everything; whether it hears this changes nothing
    return {};
}

} // namespace pageferry::engine
