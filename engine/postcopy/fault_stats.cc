#include "engine/postcopy/fault_stats.h"

#include <algorithm>
#include <array>
#include <bit>

namespace pageferry::engine {

namespace {

// A slot's key goes free → block and page (begin) → taken (the one ended() that counts it) → free. So what a slot has beside the
// key is written by begin() alone while nobody else looks, and read by one.
constexpr std::uint64_t free_slot = 0;
constexpr std::uint64_t taken = 1;
constexpr unsigned page_bits = 48;

// Never free_slot nor taken, for the block's number is counted from 1.
std::uint64_t key_of(std::size_t block, std::uint64_t page) {
    return (static_cast<std::uint64_t>(block) + 1) << page_bits | (page & ((std::uint64_t{1} << page_bits) - 1));
}

std::size_t place_of(std::uint64_t key, std::size_t probe) {
    // Fibonacci hashing: neighbouring pages, which fault together, come far apart.
    static_assert(std::has_single_bit(FaultStats::slots));
    constexpr int shift = 64 - std::countr_zero(FaultStats::slots);
    return static_cast<std::size_t>((key * 0x9e37'79b9'7f4a'7c15U) >> shift) + probe;
}

// Taken by different threads, the times may be out of order by a little.
std::uint64_t between(FaultStats::Clock::time_point from, FaultStats::Clock::time_point to) {
    return to <= from ? 0 : static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(to - from).count());
}

void add(std::atomic<std::uint64_t>& figure, std::uint64_t value) {
    figure.fetch_add(value, std::memory_order_relaxed);
}

} // namespace

FaultStats::FaultStats(Postcopy& figures, std::span<const std::uint32_t> vcpu_threads)
    : figures_(figures), slots_(slots), vcpus_(vcpu_threads.size()) {
    for (const std::uint32_t thread : vcpu_threads) {
        vcpu_threads_.emplace_back(thread, static_cast<std::uint32_t>(vcpu_threads_.size()));
    }
    std::ranges::sort(vcpu_threads_);
    figures_.vcpus.store(std::min(vcpu_threads.size(), Postcopy::most_vcpus), std::memory_order_relaxed);
}

std::uint32_t FaultStats::vcpu_of(std::uint32_t thread) const {
    using Entry = std::pair<std::uint32_t, std::uint32_t>;
    const auto found = std::ranges::lower_bound(vcpu_threads_, thread, {}, &Entry::first);
    return thread != 0 && found != vcpu_threads_.end() && found->first == thread ? found->second : other;
}

void FaultStats::begin(const memory::Fault& fault, Clock::time_point now) {
    const std::uint64_t key = key_of(fault.block, fault.page);
    const std::uint32_t vcpu = vcpu_of(fault.thread);
    Slot* into = nullptr;
    bool waits_already = false;
    for (std::size_t probe = 0; probe < probes; ++probe) {
        Slot& slot = slots_[place_of(key, probe) % slots];
        const std::uint64_t there = slot.key.load(std::memory_order_acquire);
        if (there == free_slot && into == nullptr) {
            into = &slot;
        }
        waits_already = waits_already || (there == key && fault.thread != 0 && slot.thread == fault.thread);
    }
    // Of a virtual processor the slot alone does not tell: its wait may be ending just now.
    if (into == nullptr || (vcpu == other ? waits_already : !begin_wait(vcpu, key, now))) {
        return;
    }
    into->thread = fault.thread;
    into->vcpu = vcpu;
    into->pauses = pauses_.load(std::memory_order_relaxed);
    into->since = now;
    under_way_.fetch_add(1, std::memory_order_acq_rel);
    into->key.store(key, std::memory_order_release);
}

// Whether it did not wait for this page already.
bool FaultStats::begin_wait(std::uint32_t vcpu, std::uint64_t key, Clock::time_point now) {
    const std::lock_guard lock{mutex_};
    Vcpu& waiter = vcpus_[vcpu];
    if (waiter.waits_for == key) {
        return false;
    }
    if (waiter.waits_for != 0) {
        // Called away from another page: by a kick, after which it comes back at once, so it has waited until now.
        add_blocked(vcpu, between(waiter.since, now));
    } else if (++waiting_ == vcpus_.size()) {
        all_since_ = now;
    }
    waiter = {.waits_for = key, .since = now};
    return true;
}

void FaultStats::end_wait(std::uint32_t vcpu, std::uint64_t key, Clock::time_point now) {
    const std::lock_guard lock{mutex_};
    Vcpu& waiter = vcpus_[vcpu];
    if (waiter.waits_for != key) {
        return; // it has gone on to another page
    }
    add_blocked(vcpu, between(waiter.since, now));
    waiter.waits_for = 0;
    if (waiting_-- == vcpus_.size()) {
        add(figures_.blocked_ns, between(all_since_, now));
    }
}

void FaultStats::add_blocked(std::uint32_t vcpu, std::uint64_t nanoseconds) {
    if (vcpu < Postcopy::most_vcpus) {
        add(figures_.vcpu[vcpu].blocked_ns, nanoseconds);
    }
}

void FaultStats::ended(std::size_t block, memory::PageRun run, Clock::time_point now) {
    if (under_way_.load(std::memory_order_acquire) == 0) {
        return;
    }
    if (run.count > slots / probes) { // a long run: it takes less to look at all slots
        const std::uint64_t first = key_of(block, run.first);
        for (Slot& slot : slots_) {
            const std::uint64_t key = slot.key.load(std::memory_order_acquire);
            if (key >= first && key - first < run.count) {
                end_slot(slot, key, now);
            }
        }
        return;
    }
    for (std::uint64_t page = run.first; page < run.first + run.count; ++page) {
        const std::uint64_t key = key_of(block, page);
        for (std::size_t probe = 0; probe < probes; ++probe) { // several threads may wait for it
            Slot& slot = slots_[place_of(key, probe) % slots];
            if (slot.key.load(std::memory_order_relaxed) == key) {
                end_slot(slot, key, now);
            }
        }
    }
}

void FaultStats::end_slot(Slot& slot, std::uint64_t key, Clock::time_point now) {
    std::uint64_t expected = key;
    if (!slot.key.compare_exchange_strong(expected, taken, std::memory_order_acq_rel, std::memory_order_relaxed)) {
        return; // another ended() counts it
    }
    const std::uint32_t vcpu = slot.vcpu;
    const Clock::time_point since = slot.since;
    const bool counts = slot.pauses == pauses_.load(std::memory_order_relaxed);
    // Before the slot is free: a fault that begins in it must find the former one's wait over.
    if (vcpu != other) {
        end_wait(vcpu, key, now);
    }
    slot.key.store(free_slot, std::memory_order_release);
    under_way_.fetch_sub(1, std::memory_order_acq_rel);
    if (counts) {
        count_latency(vcpu, between(since, now));
    }
}

void FaultStats::count_latency(std::uint32_t vcpu, std::uint64_t nanoseconds) {
    const std::uint64_t microseconds = nanoseconds / 1000;
    const auto bucket = microseconds == 0 ? 0U : static_cast<std::size_t>(std::bit_width(microseconds)) - 1;
    add(figures_.latency.at(std::min(bucket, Postcopy::buckets - 1)), 1);
    add(figures_.latency_ns, nanoseconds);
    add(figures_.latency_faults, 1);
    if (vcpu < Postcopy::most_vcpus) {
        add(figures_.vcpu[vcpu].faults, 1);
        add(figures_.vcpu[vcpu].latency_ns, nanoseconds);
    } else {
        add(figures_.other_faults, 1);
        add(figures_.other_latency_ns, nanoseconds);
    }
}

void FaultStats::paused() {
    pauses_.fetch_add(1, std::memory_order_relaxed);
}

} // namespace pageferry::engine
