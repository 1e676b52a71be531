// How much of background pulls may be under way: what the path carries, and a few milliseconds' worth of queue; a fault has to
// wait behind that queue, where the path has no better place for it.
//
// The delay of a pull tells: its least is the path's own, so paths of any length are filled; what it has grown by is the queue.
// The window doubles in each round trip while the queue is short, and shrinks when it is not. Where faults come, the queue is
// kept shorter, and the path is not always full.
//
// Threads: one.
#pragma once

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdint>

namespace pageferry::engine {

class PullWindow {
public:
    using Clock = std::chrono::steady_clock;
    // Bytes. A busy machine delays everything by milliseconds now and then: below the least it would be never idle and never
    // fast.
    static constexpr std::uint64_t least = 1 << 20;
    static constexpr std::uint64_t least_beside_faults = 512 << 10;
    static constexpr std::uint64_t most = 16 << 20;
    static constexpr std::uint64_t least_extent = 64 << 10; // bytes of one pull, but for larger pages
    static constexpr std::uint64_t most_extent = 256 << 10;
    static constexpr std::chrono::milliseconds queue{4};
    static constexpr std::chrono::milliseconds queue_beside_faults{1};
    static constexpr std::chrono::milliseconds fault_memory{50}; // so long after a fault there may be more

    [[nodiscard]] std::uint64_t bytes() const { return window_; }
    // So much must be free before it is filled again.
    [[nodiscard]] std::uint64_t refill() const { return std::min<std::uint64_t>(window_ / 4, 2 << 20); }
    // Of a pull that is asked for next.
    [[nodiscard]] std::uint64_t extent() const { return std::bit_floor(std::clamp(window_ / 16, least_extent, most_extent)); }

    // A pull of so many bytes that was asked for at `asked`; the latest fault was asked for at `fault`.
    void arrived(std::uint64_t bytes, Clock::time_point asked, Clock::time_point now, Clock::time_point fault) {
        const bool faults = now < fault + fault_memory;
        const auto delay = now - asked;
        shortest_ = std::min(shortest_, delay);
        if (delay <= shortest_ + (faults ? queue_beside_faults : queue)) {
            window_ = std::min(window_ + bytes, most);
        } else if (asked >= shrunk_) { // what was asked for before says nothing new
            window_ = std::max(window_ - window_ / (faults ? 4 : 8), faults ? least_beside_faults : least);
            shrunk_ = now;
        }
    }

private:
    std::uint64_t window_ = least;
    Clock::duration shortest_ = Clock::duration::max() - queue;
    Clock::time_point shrunk_;
};

} // namespace pageferry::engine
