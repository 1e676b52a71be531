// Follows a migration over a monitor until it ends.
//
// State changes come from the monitor's MIGRATION events where it sends them, else from query-migrate; figures from
// query-migrate, as often as the reporter wants them. Between the two it sleeps in poll(2).
//
// In postcopy-paused it ends, unless the monitor recovers by itself (x-pageferry-recover-attempts): then it goes on until that
// has given up. Threads: one.
#pragma once

#include "cli/exit_codes.h"
#include "cli/postcopy_start.h"
#include "cli/reporter.h"
#include "cli/signals.h"
#include "monitor/client.h"

#include <chrono>
#include <optional>
#include <string>

namespace pageferry::cli {

struct FollowOptions {
    bool events = true;                               // the monitor sends MIGRATION events (capability events is on)
    bool cancel_on_interrupt = true;                  // Ctrl-C cancels, but in postcopy (migrate); otherwise it leaves (watch)
    bool wait_for_start = false;                      // with nothing under way: wait until something is
    std::optional<std::chrono::milliseconds> timeout; // then the migration is cancelled
    std::optional<unsigned> lanes;
    std::optional<PostcopyStart> postcopy; // migrate-start-postcopy is given then
    bool resumed = false;                  // a recovery was asked for: the pause before it is no end, the one after it is
    bool leave_when_paused = false;        // ends in postcopy-paused even if the monitor recovers by itself
};

struct Outcome {
    ExitCode code = exit_ok;
    bool started = false; // a migration was seen
    bool left_in_postcopy = false;
    std::string postcopy_refused; // why migrate-start-postcopy was refused
    Summary summary;
};

// The summary is not yet told to the reporter. Errors: the monitor went away or does not answer.
Result<Outcome> follow(monitor::QmpClient& client, Signals& signals, Reporter& reporter, const FollowOptions& options);

// Asks query-migrate once.
Result<Snapshot> query(monitor::QmpClient& client);

// Longest wait for one answer: QEMU's main loop can be busy for seconds while it saves device state.
inline constexpr std::chrono::seconds answer_time{30};

} // namespace pageferry::cli
