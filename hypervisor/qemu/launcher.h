// `pageferry qemu -- QEMU ARGS`: starts QEMU in this very process, with a monitor process beside it.
//
// Threads: the main thread of a process that has no other (it forks and executes).
#pragma once

#include "hypervisor/qemu/launcher_settings.h"

#include <string>
#include <vector>

namespace pageferry::hypervisor {

// argv[0] is QEMU's binary. Returns only if QEMU was not executed in this process: with an error printed on stderr and nothing
// left behind (1; 127 where there is no such binary), or, with -daemonize, when QEMU has started in the background (0) or has
// failed.
//
// Environment: PAGEFERRY=off executes QEMU as given; PAGEFERRY_LIBEXEC is a directory with pageferry-monitor and
// libpageferry-agent.so; PAGEFERRY_LOG is where the monitor process logs: "stderr", "none" or a file, before what the settings
// say.
int run_qemu(std::vector<std::string> argv, const LauncherSettings& settings);

// With the settings of LauncherSettings::load(); where they cannot be read, QEMU is not started (1).
int run_qemu(std::vector<std::string> argv);

} // namespace pageferry::hypervisor
