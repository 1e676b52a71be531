// Where the guest's RAM is: QEMU's memory backends, each with its mapping in QEMU and a descriptor of its file.
//
// Threads: the monitor process's one thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "hypervisor/qemu/agent_client.h"
#include "hypervisor/qemu/monitor_config.h"
#include "memory/ram_block.h"

#include <span>
#include <vector>

namespace pageferry::hypervisor {

struct GuestRamBlock {
    memory::RamBlockInfo info;
    Fd file;
};

// One block for each backend, in the order of their names, so that both sides have the same. An error names the backend that has
// no usable mapping and says what to change.
Result<std::vector<GuestRamBlock>> find_guest_ram(std::span<const RamBackend> backends, std::span<const AgentMapping> mappings);

// Ends write-protect tracking of these blocks, as a mover that was killed could not. Where nothing is registered, nothing
// happens.
void stop_tracking(const Fd& userfaultfd, std::span<const memory::RamBlockInfo> blocks);

} // namespace pageferry::hypervisor
