// What the monitor process and the mover process of one migration both see, in a few pages of shared memory.
//
// The monitor process writes the limits, at any time; the mover writes the progress. Every field is a lock-free atomic, read and
// written with relaxed order: each is a figure of its own, and none tells that another is ready. A mover gone mad can only make
// figures wrong here.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace pageferry::engine {

struct Limits {
    std::atomic<std::uint64_t> max_bandwidth{0};        // bytes per second, 0: none
    std::atomic<std::uint64_t> downtime_limit_ms{300};  // QEMU's default
    std::atomic<std::uint64_t> switchover_bandwidth{0}; // bytes per second to reckon with at the switchover, 0: what was measured
    std::atomic<std::uint64_t> postcopy_bandwidth{0};   // bytes per second of background pulls, 0: none
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

// One thread of the hypervisor that runs a virtual processor.
struct VcpuFaults {
    std::atomic<std::uint64_t> blocked_ns{0}; // time it waited for pages
    std::atomic<std::uint64_t> faults{0};     // that had to be fetched from the source
    std::atomic<std::uint64_t> latency_ns{0}; // of those, summed
};

// A postcopy's faults, on the destination; on the source only the first three, as the destination tells them.
struct Postcopy {
    static constexpr std::size_t buckets = 24;     // latencies: [2^N, 2^(N+1)) microseconds, as QEMU's postcopy-latency-dist
    static constexpr std::size_t most_vcpus = 512; // further ones count as other threads
    std::atomic<std::uint64_t> requests{0};        // pages fetched for a fault
    std::atomic<std::uint64_t> request_bytes{0};   // of those
    std::atomic<std::uint64_t> bytes{0};           // all that was pulled, faults and background
    std::atomic<std::uint64_t> faults{0};          // all faults, also those on pages that were here already
    std::atomic<std::uint64_t> latency_ns{0};      // of requests, from the fault read to the page mapped, summed
    std::atomic<std::uint64_t> latency_faults{0};  // how many were summed
    std::atomic<std::uint64_t> blocked_ns{0};      // time in which all virtual processors waited for pages
    std::atomic<std::uint64_t> other_faults{0};    // of latency_faults, by threads that run no virtual processor
    std::atomic<std::uint64_t> other_latency_ns{0};
    std::atomic<std::uint64_t> vcpus{0}; // of the following
    std::array<std::atomic<std::uint64_t>, buckets> latency{};
    std::array<VcpuFaults, most_vcpus> vcpu{};
};

struct ControlPage {
    static constexpr std::size_t size = 16384;
    Limits limits;
    Progress progress;
    Postcopy postcopy;
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(sizeof(ControlPage) <= ControlPage::size);

} // namespace pageferry::engine
