// The subcommand qmp of pageferry-perf.
//
// Threads: the main thread.
#pragma once

#include <CLI/CLI.hpp>

namespace pageferry::perf {

// code: the program's exit status once the subcommand has run. Both outlive the parsing.
void add_qmp_command(CLI::App& app, int& code);

} // namespace pageferry::perf
