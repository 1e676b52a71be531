// The QEMUs of this host, and whether `pageferry qemu` can serve them: each is asked for its version with the agent preloaded, as
// it would run.
//
// Threads: any; the programs run as children, each for ten seconds at most.
#pragma once

#include "base/error.h"

#include <string>
#include <vector>

namespace pageferry::hypervisor {

struct QemuFound {
    std::string file;    // as PATH finds it
    std::string version; // "7.2.22"; empty where it does not say it
    Result<void> served; // or why not, and what to do
};

// Every qemu-system-* of PATH, in the order of their names; the first of each name, as a shell would take it. A name that is a
// link to another one is left out. Pieces of our own that are missing are the error of each.
std::vector<QemuFound> find_qemus();

// From "QEMU emulator version 7.2.22 (Debian ...)": "7.2.22"; empty where there is none.
std::string qemu_version(const std::string& output);

} // namespace pageferry::hypervisor
