// The options of `pageferry`'s subcommands that talk to a monitor.
//
// Each adds them to the command, which writes into `options` when it parses: that has to live as long. Threads: the main thread.
#pragma once

#include "cli/commands.h"

#include <string>

namespace CLI {
class App;
}

namespace pageferry::cli {

std::string exit_codes_help();

// follows: it shows the course of the migration, so it has an interval.
void add_monitor_options(CLI::App& command, MonitorOptions& options, bool follows);
void add_migrate_options(CLI::App& command, MigrateOptions& options);
void add_recover_options(CLI::App& command, RecoverOptions& options);

} // namespace pageferry::cli
