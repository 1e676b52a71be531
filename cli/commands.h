// The subcommands of `pageferry`: options in, exit code out. What goes wrong is said on standard error, with the remedy.
//
// Threads: the main thread.
#pragma once

#include "cli/exit_codes.h"
#include "cli/settings.h"

#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace pageferry::cli {

struct MonitorOptions {
    std::string address;
    std::chrono::milliseconds connect_timeout{5000};
    std::chrono::milliseconds interval{0}; // 0: the output's own
    bool json = false;
};

struct MigrateOptions {
    MonitorOptions monitor;
    std::vector<std::string> uris; // in the order in which they are wanted
    Settings settings;
    bool detach = false;
    std::optional<std::chrono::milliseconds> timeout;
};

ExitCode run_migrate(const MigrateOptions& options);
ExitCode run_watch(const MonitorOptions& options);
ExitCode run_status(const MonitorOptions& options);
ExitCode run_cancel(const MonitorOptions& options);

} // namespace pageferry::cli
