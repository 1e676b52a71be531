#include "engine/settlement.h"

#include <tuple>

namespace pageferry::engine {

namespace session = transport::session;
using statemachine::Cause;
using statemachine::Status;

namespace {
constexpr std::chrono::milliseconds run_timeout{60'000}; // a dead peer is found much earlier, by its silence
} // namespace

Result<void> Settlement::run() {
    auto done = settle();
    if (!done) {
        done = std::unexpected(peer_.cause(done.error()));
        std::ignore = machine_.transition(Status::postcopy_paused, peer_.cancelled() ? Cause::requested : Cause::connection_lost,
                                          done.error().to_string());
    }
    return done;
}

Result<void> Settlement::settle() {
    PAGEFERRY_TRY(peer_.connect());
    PAGEFERRY_TRY(machine_.transition(Status::postcopy_recover, Cause::connected));
    PAGEFERRY_TRY(machine_.transition(Status::postcopy_active, Cause::connected));
    PAGEFERRY_TRY(peer_.send(session::Permit{.running = running_}));
    const auto running = peer_.expect<session::Running>(run_timeout);
    if (!running) {
        return std::unexpected(running.error());
    }
    peer_.inbox().expect_end();
    PAGEFERRY_TRY(machine_.transition(Status::completed, Cause::finished));
    std::ignore = peer_.send(session::Goodbye{}); // the destination runs; whether it hears this changes nothing
    return {};
}

} // namespace pageferry::engine
