// The descriptors that came with a mover's start message, by what they are for.
//
// Pure; any thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "hypervisor/link/messages.h"
#include "memory/dirty_tracker.h"

#include <vector>

namespace pageferry::hypervisor {

struct StartHandles {
    Fd control_page;
    memory::TrackingHandles tracking;
    Fd discards;
    Fd page_map;
    std::vector<Fd> faults;
    std::vector<Fd> files; // of the blocks
};

// In the order of MoverStart. protocol: not as many as it says.
Result<StartHandles> take_handles(const MoverStart& start, std::vector<Fd> fds);

} // namespace pageferry::hypervisor
