// Takes apart what a connection leaves behind on the device: queue pairs, ids, queues, message buffers. The kernel may block in
// that for as long as packets of a queue pair are on their way out of the host (rdma_rxe, while its port is down or its queue
// stands still), and nobody who closes a connection shall wait for it: the next connection is waiting to be made. So it is done
// on a thread of its own, which the one who closes waits for no longer than a moment.
//
// What is left to it can reach no memory but its own message buffers: those who own guest memory have deregistered it before.
//
// The thread belongs to the plugin, which is never unloaded (-z nodelete). A process may end while one is at work; the kernel
// then takes apart what is left, and takes the time it takes.
//
// Threads: any.
#pragma once

#include "rdma/lane_set.h"

#include <memory>

namespace pageferry::rdma {

struct Retire {
    // Returns when all is gone, or after that moment.
    void operator()(LaneSet* set) const;
};

// The owner of a connection's lanes, from the first one on.
using Lanes = std::unique_ptr<LaneSet, Retire>;

} // namespace pageferry::rdma
