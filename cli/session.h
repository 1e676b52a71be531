// What the subcommands that talk to a monitor share: the connection with Ctrl-C, and the way to an exit code.
//
// What goes wrong is said on standard error. Threads: the main thread.
#pragma once

#include "cli/commands.h"
#include "cli/follow.h"
#include "cli/signals.h"
#include "monitor/client.h"

#include <string>
#include <vector>

namespace pageferry::cli {

struct Session {
    Signals signals;
    monitor::QmpClient client;
};

Result<Session> open_session(const MonitorOptions& options);

// Says it, and answers what it means for the exit code.
ExitCode complain(const Error& error);
ExitCode complain(const Error& error, ExitCode code);
ExitCode code_for(const Error& error);

// Follows, tells the end, and says what is to be done next. uris: where the migration was told to go, as far as known.
ExitCode follow_to_end(Session& session, const MonitorOptions& options, const FollowOptions& how,
                       const std::vector<std::string>& uris = {});

// The `uri` or `uris` argument of migrate and migrate-recover: one goes as QEMU's own, so that plain QEMU takes it too.
nlohmann::json where_to(const std::vector<std::string>& uris);

std::chrono::microseconds wall_clock(); // since 1970

} // namespace pageferry::cli
