// Gives up what a mover does not need: it reads bytes of a peer, so it should be able to do little.
//
// Threads: call once, before any thread is started.
#pragma once

#include "base/error.h"

namespace pageferry::hypervisor {

// Keeps, of what the process has, CAP_IPC_LOCK (RDMA pins memory) and CAP_NET_BIND_SERVICE (a port below 1024); no new privileges
// by any exec; ends with its parent.
Result<void> drop_privileges();

} // namespace pageferry::hypervisor
