// Follows a migration over a monitor until it ends.
//
// State changes come from the monitor's MIGRATION events where it sends them, else from query-migrate; figures from
// query-migrate, as often as the reporter wants them. Between the two it sleeps in poll(2). Threads: one.
#pragma once

#include "cli/exit_codes.h"
#include "cli/reporter.h"
#include "cli/signals.h"
#include "monitor/client.h"

#include <chrono>
#include <optional>

namespace pageferry::cli {

struct FollowOptions {
    bool events = true;                               // the monitor sends MIGRATION events (capability events is on)
    bool cancel_on_interrupt = true;                  // Ctrl-C cancels (migrate); otherwise it leaves (watch)
    bool wait_for_start = false;                      // with nothing under way: wait until something is
    std::optional<std::chrono::milliseconds> timeout; // then the migration is cancelled
    std::optional<unsigned> lanes;
};

struct Outcome {
    ExitCode code = exit_ok;
    bool started = false; // a migration was seen
    Summary summary;
};

// The summary is not yet told to the reporter. Errors: the monitor went away or does not answer.
Result<Outcome> follow(monitor::QmpClient& client, Signals& signals, Reporter& reporter, const FollowOptions& options);

// Asks query-migrate once.
Result<Snapshot> query(monitor::QmpClient& client);

// Longest wait for one answer: QEMU's main loop can be busy for seconds while it saves device state.
inline constexpr std::chrono::seconds answer_time{30};

} // namespace pageferry::cli
