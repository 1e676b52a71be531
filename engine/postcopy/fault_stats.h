// How long faults of a postcopy wait: QEMU's postcopy-latency and postcopy-blocktime, kept in the control page.
//
// A fault begins when it was read and ends when its page is mapped; those on pages that are here already are not for this. Up to
// `slots` are under way at once; of more, the rest is not counted. Of the figures it writes latency*, other_*, vcpus, vcpu and
// blocked_ns, adding to what is there; the others are the caller's. Faults that an earlier process had read are not known.
//
// Threads: begin() by one; ended() and paused() by any at the same time. No allocation, no system call. A mutex is held for a few
// instructions where a virtual processor begins or ends to wait, and only there: whether all of them wait, and since when, is one
// fact about many.
//
// Begin a fault before its page is marked wanted, and then look at the received bitmap: if the page has come by now, map it and
// call ended() as for any other. So none is left over.
#pragma once

#include "engine/control_page.h"
#include "memory/bitmap.h"
#include "memory/fault_regions.h"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

namespace pageferry::engine {

class FaultStats {
public:
    using Clock = std::chrono::steady_clock;
    static constexpr std::size_t slots = 1024;

    // vcpu_threads: the kernel's thread ids, in the order of the virtual processors; may be empty (not known).
    FaultStats(Postcopy& figures, std::span<const std::uint32_t> vcpu_threads);

    // The same thread on the same page once more (a signal had called it away) is still the first fault. A virtual processor
    // waits for one page at a time: on another page it waits for the former no longer.
    void begin(const memory::Fault& fault, Clock::time_point now);
    // Every fault on one of these pages has ended.
    void ended(std::size_t block, memory::PageRun run, Clock::time_point now);
    // When the connection is lost: what waits now waits for a recovery, and says nothing about the network's latency. Blocked
    // time goes on.
    void paused();

private:
    static constexpr std::size_t probes = 8;    // places where a page can be
    static constexpr std::uint32_t other = ~0U; // no virtual processor
    struct Slot {
        std::atomic<std::uint64_t> key{0}; // block and page; free and taken: see the .cc
        std::uint32_t thread = 0;
        std::uint32_t vcpu = other;
        std::uint64_t pauses = 0; // when it began
        Clock::time_point since;
    };
    struct Vcpu {
        std::uint64_t waits_for = 0; // key, 0: none
        Clock::time_point since;
    };
    [[nodiscard]] std::uint32_t vcpu_of(std::uint32_t thread) const;
    bool begin_wait(std::uint32_t vcpu, std::uint64_t key, Clock::time_point now);
    void end_wait(std::uint32_t vcpu, std::uint64_t key, Clock::time_point now);
    void add_blocked(std::uint32_t vcpu, std::uint64_t nanoseconds);
    void end_slot(Slot& slot, std::uint64_t key, Clock::time_point now);
    void count_latency(std::uint32_t vcpu, std::uint64_t nanoseconds);

    Postcopy& figures_;
    std::vector<std::pair<std::uint32_t, std::uint32_t>> vcpu_threads_; // thread, processor; sorted
    std::vector<Slot> slots_;
    std::atomic<std::uint64_t> under_way_{0};
    std::atomic<std::uint64_t> pauses_{0};

    std::mutex mutex_; // of what follows
    std::vector<Vcpu> vcpus_;
    std::size_t waiting_ = 0; // of vcpus_
    Clock::time_point all_since_;
};

} // namespace pageferry::engine
