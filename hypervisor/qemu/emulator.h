// `pageferry-qemu-system-x86_64` and its like: called in QEMU's place, with QEMU's own arguments, by whatever starts QEMUs
// (libvirt's <emulator>). The name it is called by says which QEMU it stands for.
//
// Threads: the main thread of a process that has no other.
#pragma once

#include "base/error.h"
#include "hypervisor/qemu/launcher_settings.h"

#include <string>
#include <string_view>
#include <vector>

namespace pageferry::hypervisor {

// The QEMU that `called` (argv[0]) stands for: what the settings say of its last part, otherwise NAME of "pageferry-NAME". A
// program's name or path. invalid_argument, with what to do: the name says nothing.
Result<std::string> emulator_of(std::string_view called, const LauncherSettings& settings);

// Where that is: with a slash as it is, otherwise in PATH, /usr/bin, /usr/local/bin or /usr/libexec. not_found or permission;
// invalid_argument where it is this very program under another name, which would execute itself for ever.
Result<std::string> find_emulator(const std::string& name);

// main() of pageferry-qemu: as run_qemu() (launcher.h), with that QEMU in the place of argv[0].
int run_emulator(std::vector<std::string> argv);

} // namespace pageferry::hypervisor
