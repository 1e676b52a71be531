// What the monitor process and the mover process of one migration both see, in one page of shared memory.
//
// The monitor process writes the limits, at any time; the mover writes the progress. Every field is a lock-free atomic, read and
// written with relaxed order: each is a figure of its own, and none tells that another is ready. A mover gone mad can only make
// figures wrong here.
#pragma once

#include <atomic>
#include <cstdint>

namespace pageferry::engine {

struct Limits {
    std::atomic<std::uint64_t> max_bandwidth{0};        // bytes per second, 0: none
    std::atomic<std::uint64_t> downtime_limit_ms{300};  // QEMU's default
    std::atomic<std::uint64_t> switchover_bandwidth{0}; // bytes per second to reckon with at the switchover, 0: what was measured
};

struct Progress {
    std::atomic<std::uint64_t> ram_total{0};        // bytes of guest RAM
    std::atomic<std::uint64_t> ram_hole{0};         // bytes of it that were never touched and are not sent
    std::atomic<std::uint64_t> ram_transferred{0};  // bytes, pages sent again count again
    std::atomic<std::uint64_t> ram_remaining{0};    // bytes known to be still to send
    std::atomic<std::uint64_t> downtime_bytes{0};   // of ram_transferred, sent while the guest was stopped
    std::atomic<std::uint64_t> device_bytes{0};     // bytes of QEMU's own stream
    std::atomic<std::uint64_t> dirty_pages_rate{0}; // pages per second
    std::atomic<std::uint64_t> dirty_sync_count{0}; // rounds begun
    std::atomic<std::uint64_t> bandwidth{0};        // bytes per second, over the last second or so
    std::atomic<std::uint64_t> expected_downtime_ms{0};
    std::atomic<std::uint64_t> setup_us{0};    // from the start to `active`
    std::atomic<std::uint64_t> downtime_us{0}; // from the guest's stop to the destination's word that it runs
    std::atomic<std::uint64_t> lanes{0};
    std::atomic<std::uint64_t> page_size{0}; // bytes, the smallest of all blocks
};

struct ControlPage {
    static constexpr std::size_t size = 4096;
    Limits limits;
    Progress progress;
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(sizeof(ControlPage) <= ControlPage::size);

} // namespace pageferry::engine
