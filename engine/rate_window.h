// The throughput shown to people, and reckoned with: bytes over the last quarter of a second or so.
//
// Threads: add() by one; the figure may be read by any.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace pageferry::engine {

class RateWindow {
public:
    using Clock = std::chrono::steady_clock;
    static constexpr std::chrono::milliseconds length{250};

    // shown: bytes per second, changed when a window is full.
    explicit RateWindow(std::atomic<std::uint64_t>& shown) : shown_(shown) {}

    void add(std::uint64_t bytes, Clock::time_point now) {
        bytes_ += bytes;
        if (const auto passed = now - start_; passed >= length) {
            const double seconds = std::chrono::duration<double>(passed).count();
            shown_.store(static_cast<std::uint64_t>(static_cast<double>(bytes_) / seconds), std::memory_order_relaxed);
            bytes_ = 0;
            start_ = now;
        }
    }

private:
    std::atomic<std::uint64_t>& shown_;
    Clock::time_point start_ = Clock::now();
    std::uint64_t bytes_ = 0;
};

} // namespace pageferry::engine
