// What of a migration outlives its movers: the guest's RAM files, and on the destination of what may become a postcopy its page
// map and the userfaultfds of its page faults. A mover that dies loses nothing of the guest's: the next one is given the same.
//
// Threads: the monitor process's one thread.
#pragma once

#include "base/fd.h"
#include "hypervisor/link/messages.h"
#include "hypervisor/monitor_process/guest_ram.h"
#include "memory/ram_block.h"

#include <cstdint>
#include <vector>

namespace pageferry::hypervisor {

struct Holdings {
    std::vector<GuestRamBlock> blocks;
    Fd page_map;                             // memory/page_map.h; empty: no postcopy
    std::vector<Fd> faults;                  // userfaultfds of QEMU's
    std::vector<std::uint32_t> vcpu_threads; // the kernel's ids

    [[nodiscard]] std::vector<memory::RamBlockInfo> infos() const;
};

// The descriptors of a start message, borrowed, in the order of MoverStart.
struct StartFds {
    int control_page = -1;
    std::vector<int> tracking; // those that the flags of MoverStart name, in their order
};

// Puts what is held into the message, and answers all its descriptors.
std::vector<int> add_holdings(const Holdings& held, const StartFds& fds, MoverStart& start);

} // namespace pageferry::hypervisor
