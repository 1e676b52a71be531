// The queue pairs of one connection and all that they need on the device: protection domain, completion queues, message buffers.
// Made lane by lane while the connection is set up; receive buffers are posted before a lane can carry anything.
//
//   control  SEND/RECV of the caller's messages, with credits       own completion queue
//   service  SEND/RECV of the transport's own messages              completion queue of the service thread, where the receives of
//                                                                   the data lanes end too (fences)
//   bulk 0.. WRITE and READ                                         data completion queue
//   urgent   READ of faults                                         data completion queue
//
// Threads: one, until the connection is made of it.
#pragma once

#include "base/error.h"
#include "rdma/device.h"
#include "rdma/handles.h"
#include "rdma/handshake.h"
#include "rdma/kit.h"
#include "rdma/service_message.h"
#include "rdma/work_completion.h"
#include "transport/abi/pageferry_transport.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace pageferry::rdma {

inline constexpr std::size_t control_slots = 34; // message buffers in each direction
inline constexpr std::size_t control_header_bytes = 16;
inline constexpr std::size_t control_slot_bytes = PF_CONTROL_MAX + 64;
inline constexpr std::size_t data_receives = 8; // of each data lane: for fences

// The queue pair of an id, destroyed before the id.
using IdQueuePair = std::unique_ptr<rdma_cm_id, Release<rdma_destroy_qp>>;

struct Lane {
    LaneKind kind = LaneKind::control;
    unsigned index = 0;
    CmId id;
    IdQueuePair pair;
    std::uint32_t send_depth = 0;
    std::uint32_t inline_bytes = 0; // that the queue pair takes
    LaneName name;
    bool established = false;

    [[nodiscard]] ibv_qp* qp() const { return id->qp; }
};

struct Unmap {
    std::size_t bytes = 0;
    void operator()(std::byte* memory) const;
};

// Plain memory, page-aligned, and its region.
class Buffer {
public:
    Buffer() = default;
    static Result<Buffer> make(ibv_pd* pd, std::size_t bytes);
    Buffer(Buffer&&) noexcept = default;
    Buffer& operator=(Buffer&&) noexcept = default;
    ~Buffer() = default;

    [[nodiscard]] std::byte* at(std::size_t offset) const { return memory_.get() + offset; }
    [[nodiscard]] std::uint32_t key() const { return region_->lkey; }

private:
    std::unique_ptr<std::byte, Unmap> memory_;
    MemoryRegion region_;
};

inline constexpr std::uint32_t proof_bytes = 8;

class LaneSet {
public:
    struct Queue {
        CompletionChannel channel;
        CompletionQueue queue;
    };

    // lanes: bulk lanes.
    LaneSet(EventChannel events, unsigned lanes) : channel(std::move(events)), lanes_(lanes) {}
    ~LaneSet(); // queue pairs first
    LaneSet(const LaneSet&) = delete;
    LaneSet& operator=(const LaneSet&) = delete;

    // An id whose route is resolved, or that a listener was given: gets its queue pair and its receive buffers. unsupported: it
    // is on another device than the lanes before. On any failure the id stays the caller's: it may have to be answered.
    Result<Lane*> add(CmId&& id, LaneKind kind, unsigned index, std::string peer);

    [[nodiscard]] Lane* find(const rdma_cm_id* id) const;
    [[nodiscard]] Lane* find(std::uint32_t qp_number) const;
    [[nodiscard]] Lane* find(LaneKind kind, unsigned index) const;
    [[nodiscard]] bool whole() const; // every lane is there and established
    [[nodiscard]] unsigned bulk_lanes() const { return lanes_; }
    [[nodiscard]] ibv_context* context() const { return context_; }
    [[nodiscard]] ibv_pd* pd() const { return pd_.get(); }
    [[nodiscard]] const DeviceLimits& limits() const { return limits_; }
    [[nodiscard]] std::span<const std::unique_ptr<Lane>> lanes() const { return all_; }

    // Queue pairs into error: what they hold comes back flushed, nothing more is sent or taken.
    void stop() const;
    // And forgets what was under way: a device may hold on to the memory of it in the error state (rdma_rxe does, for a write of
    // which a part has come, and deregistering waits for that).
    void reset() const;

    [[nodiscard]] Result<void> post_control_receive(std::size_t slot) const;
    [[nodiscard]] Result<void> post_service_receive(std::size_t slot) const;
    [[nodiscard]] Result<void> post_data_receive(const Lane& lane) const;

private:
    Result<void> open_device(ibv_context* context);
    [[nodiscard]] Result<void> make_queue(Queue& queue, std::size_t entries) const;
    [[nodiscard]] Result<void> make_pair(Lane& lane) const;
    [[nodiscard]] Result<void> post_receives(const Lane& lane) const;

    // In the order in which they are made; they go the other way round, and queue pairs before all of them.
public:
    EventChannel channel; // of all the ids

private:
    unsigned lanes_;
    ibv_context* context_ = nullptr; // librdmacm's
    DeviceLimits limits_;
    ProtectionDomain pd_;

public:
    Queue control;
    Queue service;
    Queue data;
    Buffer control_buffer; // slots to receive into, then slots to send from
    Buffer service_buffer; // the same
    Buffer proof_buffer;   // where reads of proof_bytes go that nobody looks at

private:
    std::vector<std::unique_ptr<Lane>> all_;
};

} // namespace pageferry::rdma
