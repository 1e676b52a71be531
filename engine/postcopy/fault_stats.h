// How long faults of a postcopy wait: QEMU's postcopy-latency and postcopy-blocktime, kept in the control page.
//
// A fault begins when it was read and ends when its page is mapped. Up to `slots` are under way at once; of more, the rest is not
// counted. Threads: begin() by one, ended() by another at the same time. No allocation, no lock, no system call but the clock.
#pragma once

#include "engine/control_page.h"
#include "memory/bitmap.h"
#include "memory/fault_regions.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pageferry::engine {

class FaultStats {
public:
    using Clock = std::chrono::steady_clock;
    static constexpr std::size_t slots = 1024;

    // vcpu_threads: the kernel's thread ids, in the order of the virtual processors; may be empty (not known).
    FaultStats(Postcopy& figures, std::span<const std::uint32_t> vcpu_threads);

    void begin(const memory::Fault& fault, Clock::time_point now);
    // Every fault on one of these pages has ended.
    void ended(std::size_t block, memory::PageRun run, Clock::time_point now);
    // When the connection is lost: what waits now waits for a recovery, and says nothing about the network's latency. Blocked
    // time goes on.
    void paused();

private:
    struct Slot {
        std::atomic<std::uint64_t> key{0}; // block and page, 0: free
        std::uint32_t thread = 0;
        Clock::time_point since;
    };
    Postcopy& figures_;
    std::vector<std::uint32_t> vcpu_threads_;
    std::vector<Slot> slots_;
    std::atomic<std::uint64_t> under_way_{0};
};

} // namespace pageferry::engine
