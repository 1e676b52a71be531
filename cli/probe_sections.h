// From what was found on this host to lines: words, verdicts, remedies.
//
// Pure functions; any thread.
#pragma once

#include "base/error.h"
#include "base/memlock.h"
#include "cli/probe_finding.h"
#include "hypervisor/probe/host.h"
#include "hypervisor/probe/qemu.h"

#include <string>
#include <vector>

namespace pageferry::cli {

Section kernel_section(const hypervisor::KernelFeatures& kernel, const hypervisor::UserfaultfdRights& rights);
Section memory_section(const Result<Memlock>& memlock, const std::vector<hypervisor::HugePages>& pools);
Section qemu_section(const std::vector<hypervisor::QemuFound>& qemus);

struct TransportFound {
    std::string scheme;
    std::string file;              // empty where there is none
    std::string description;       // the plugin's own, where it could be loaded
    Result<void> usable;           // loaded, and its probe()
    Result<std::string> inspected; // its JSON, or empty
};
// One line for each, and behind it a section for each that has something to tell.
std::vector<Section> transport_sections(const std::vector<TransportFound>& transports);

// An error as a line tells it: without the remedy, which has a place of its own.
std::string reason_of(const Error& error);

} // namespace pageferry::cli
