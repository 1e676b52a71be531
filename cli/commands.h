// The subcommands of `pageferry`: options in, exit code out. What goes wrong is said on standard error, with the remedy.
//
// Threads: the main thread.
#pragma once

#include "cli/exit_codes.h"
#include "cli/postcopy_start.h"
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
    std::optional<PostcopyStart> postcopy; // with the capability postcopy-ram
    bool detach = false;
    std::optional<std::chrono::milliseconds> timeout;
};

struct RecoverOptions {
    MonitorOptions monitor;
    std::vector<std::string> uris; // source: where to, in that order; destination: where it listens
    Settings settings;
    bool incoming = false; // it is a destination; otherwise the monitor is asked
    bool detach = false;
};

ExitCode run_migrate(const MigrateOptions& options);
ExitCode run_watch(const MonitorOptions& options);
ExitCode run_status(const MonitorOptions& options);
ExitCode run_cancel(const MonitorOptions& options);
ExitCode run_postcopy(const MonitorOptions& options);
ExitCode run_pause(const MonitorOptions& options);
ExitCode run_recover(const RecoverOptions& options);

} // namespace pageferry::cli
