// Owners of what verbs and the connection manager give: released when the owner goes, moved and never copied.
//
// Order matters to the kernel: queue pairs go before their completion queues, regions and everything else before their protection
// domain, ids after their queue pairs and before their event channel. Owners are declared in that order, last first.
//
// Threads: an owner belongs to one thread at a time; the object inside may be used as verbs(3) and rdma_cm(7) allow.
#pragma once

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include <memory>

namespace pageferry::rdma {

template <auto release>
struct Release {
    template <class T>
    void operator()(T* object) const {
        (void)release(object); // fails only for an object that is still in use, which is a defect of ours
    }
};

inline void release_event_channel(rdma_event_channel* channel) {
    rdma_destroy_event_channel(channel);
}
inline int release_region(ibv_mr* region) {
    return ibv_dereg_mr(region); // ibv_reg_mr is a macro's name: a function of ours is needed to point to
}

using EventChannel = std::unique_ptr<rdma_event_channel, Release<release_event_channel>>;
using CmId = std::unique_ptr<rdma_cm_id, Release<rdma_destroy_id>>; // waits until its events are acknowledged
using ProtectionDomain = std::unique_ptr<ibv_pd, Release<ibv_dealloc_pd>>;
using CompletionChannel = std::unique_ptr<ibv_comp_channel, Release<ibv_destroy_comp_channel>>;
using CompletionQueue = std::unique_ptr<ibv_cq, Release<ibv_destroy_cq>>; // waits until its events are acknowledged
using QueuePair = std::unique_ptr<ibv_qp, Release<ibv_destroy_qp>>;
using MemoryRegion = std::unique_ptr<ibv_mr, Release<release_region>>;
using CmEvent = std::unique_ptr<rdma_cm_event, Release<rdma_ack_cm_event>>;

} // namespace pageferry::rdma
