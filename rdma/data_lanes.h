// Pushes and pulls, from the moment they are taken until their completion is fetched: cut at the borders of memory regions,
// neighbours put together again, given to whichever lane has least to do, posted in batches, signalled once a batch.
//
// All memory of the data path is taken when it is made.
//
// The caller's own thread posts and polls; nothing is handed to another one. What waits for a region to be registered is posted
// by whoever comes by next: poll(), fence(), or the service thread that brings the news.
//
// Its own regions it keeps here; those the peer can reach are the service's.
//
// Threads: as the ABI allows; region_*() and fenced() on the service thread.
#pragma once

#include "rdma/control_lane.h"
#include "rdma/handles.h"
#include "rdma/kit.h"
#include "rdma/lane_set.h"
#include "rdma/pump.h"
#include "rdma/region_table.h"
#include "transport/plugin/memory_table.h"
#include "transport/plugin/op_kind.h"
#include "transport/plugin/ring.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

namespace pageferry::rdma {

class DataLanes {
public:
    // Regions that have to be registered here, and at the peer where it was not asked before; of those that were asked for here
    // (local_asked), sooner. Called under the lock.
    using Want = std::function<void(std::span<const Region> regions, Urgency urgency)>;

    DataLanes(LaneSet& set, const Ending& ending, Fd kick, std::size_t depth, Want want, ControlLane::Fail fail);

    void set_memory(const MemoryTable& table); // once
    void prepare(std::span<const pf_extent> extents);
    // Extents that the memory table has allowed. How many were taken; 0: queue full.
    Outcome<std::size_t> submit(OpKind kind, std::span<const pf_extent> extents);
    Outcome<std::size_t> poll(std::span<pf_completion> completions, const Deadline& deadline);
    Outcome<void> fence(const Deadline& deadline);

    // state: something is under way; nothing was done then. round: from which on registrations are of the pages that are there
    // now.
    Outcome<void> memory_replaced(std::uint64_t round);
    // The same, to have less memory pinned. false: nothing was registered here, or something is under way.
    bool forget(std::uint64_t round);

    // Takes the region. Nothing is taken, and the answer is what is to be registered again, where it was begun before the round.
    std::optional<Region> region_local(std::uint32_t number, MemoryRegion& region, std::uint64_t round);
    void region_remote(std::uint32_t number, std::uint64_t address, std::uint32_t key);
    void fenced(std::uint32_t number);
    // The region of that number, as it is now. Nothing: there is none.
    std::optional<Region> region(std::uint32_t number);

    // The queue pairs are in error: waits for what they held to come back. false: not in time. When the connection is over.
    bool flush(const Deadline& deadline);
    // For how long nothing has completed though something is under way; 0: nothing is.
    Clock::duration stalled_for();
    [[nodiscard]] std::uint64_t bytes_pushed() const { return pushed_.load(std::memory_order_relaxed); }
    [[nodiscard]] std::uint64_t bytes_pulled() const { return pulled_.load(std::memory_order_relaxed); }

private:
    struct Op {
        pf_extent extent{};
        OpKind kind = OpKind::push;
        std::uint64_t taken = 0;   // bytes given to lanes
        std::uint32_t pending = 0; // requests under way
    };
    // What one posted request was for: so many operations, from the front of the lane's list.
    struct Posted {
        std::uint64_t sequence = 0;
        std::uint32_t operations = 0; // 0: a fence
        std::uint64_t bytes = 0;
    };
    struct Queue { // of one kind
        std::vector<std::uint32_t> free;
        Ring<std::uint32_t> waiting; // not wholly posted, oldest first
    };
    struct DataLane {
        Lane* lane = nullptr;
        std::uint32_t number = 0;       // in wr_id
        std::uint64_t sequence = 0;     // of the last posted request
        Ring<Posted> posted;            // not known to be complete
        Ring<std::uint32_t> operations; // that they were for
        std::uint64_t bytes = 0;        // under way
        bool unfenced = false;          // a push was posted since the last fence
        std::uint64_t seen = 0;         // sequence of the latest completion, of whatever status
        Clock::time_point moved;        // when something last completed, or the first was posted
    };
    // Requests that go to a lane with one call.
    static constexpr std::size_t batch = 16;
    static constexpr std::uint64_t batch_bytes = std::uint64_t{2} << 20;
    static constexpr std::uint64_t longest = std::uint64_t{2} << 20; // of one request
    // Of one that reads: the peer's device answers it as a whole, and a fault's comes after it.
    static constexpr std::uint64_t longest_pull = std::uint64_t{64} << 10;
    static constexpr std::uint32_t reserved = 5; // requests of each lane kept for fences, and for one proof of reads

    void handle(const ibv_wc& completion);
    void complete(DataLane& lane, std::uint64_t through);
    void advance();
    void advance(Queue& queue, std::span<DataLane> lanes);
    // false: nothing could be posted now.
    bool post_some(Queue& queue, std::span<DataLane> lanes);
    [[nodiscard]] DataLane* least_busy(std::span<DataLane> lanes) const;
    void add_proof(DataLane& lane, ibv_send_wr& last_read, ibv_send_wr& proof, ibv_sge& piece) const;
    bool post(DataLane& lane, ibv_send_wr* first);
    bool post_fences(std::uint32_t number);
    void cover(std::span<const pf_extent> extents, Urgency urgency);
    void want_missing(const pf_extent& extent, Urgency urgency);
    [[nodiscard]] bool idle() const; // nothing is under way, and every completion was fetched
    void forget_local(std::uint64_t round, std::vector<MemoryRegion>& gone);
    [[nodiscard]] bool has_room(DataLane& lane) const;
    [[nodiscard]] Queue& queue_of(OpKind kind) { return queues_[static_cast<std::size_t>(kind)]; }

    LaneSet& set_;
    const Ending& ending_;
    const Want want_;
    const ControlLane::Fail fail_;
    std::mutex mutex_;
    Pump pump_;
    std::optional<RegionTable> regions_;
    const MemoryTable* table_ = nullptr;
    std::vector<MemoryRegion> local_; // by number
    std::uint64_t round_ = 0;         // of the registrations that hold
    bool forgotten_ = false;          // some that were registered here no longer are
    const std::size_t depth_;         // of each queue
    std::vector<Op> ops_;
    std::vector<Queue> queues_;   // by kind
    Ring<std::uint32_t> done_;    // completed, until poll() has told
    std::vector<DataLane> lanes_; // bulk, then urgent
    std::uint32_t fences_ = 0;    // asked for
    std::uint32_t fenced_ = 0;    // answered
    std::vector<std::uint32_t> added_;
    std::vector<Region> wanted_;
    std::atomic<std::uint64_t> pushed_{0};
    std::atomic<std::uint64_t> pulled_{0};
};

} // namespace pageferry::rdma
