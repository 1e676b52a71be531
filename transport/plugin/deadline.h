// A moment by which a call answers, made once from the caller's milliseconds and handed down.
//
// Threads: plain values.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <ctime>

namespace pageferry::plugin {

using Clock = std::chrono::steady_clock; // CLOCK_MONOTONIC, which Condition waits on too

class Deadline {
public:
    // Negative counts as 0; anything beyond a year as a year, so that no sum overflows.
    static Deadline in(std::int64_t milliseconds) {
        constexpr std::int64_t year = 365LL * 24 * 3600 * 1000;
        return Deadline{Clock::now() + std::chrono::milliseconds{std::clamp<std::int64_t>(milliseconds, 0, year)}};
    }
    explicit Deadline(Clock::time_point at) : at_(at) {}

    [[nodiscard]] Clock::time_point at() const { return at_; }
    [[nodiscard]] bool passed() const { return Clock::now() >= at_; }
    // For poll(2): rounded up, so that a wait never ends before the deadline; 0 when it has passed.
    [[nodiscard]] int poll_ms() const {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(at_ - Clock::now()).count();
        return static_cast<int>(std::clamp<std::int64_t>(left, 0, 1'000'000'000));
    }
    [[nodiscard]] Deadline or_sooner(Clock::time_point other) const { return Deadline{std::min(at_, other)}; }

private:
    Clock::time_point at_;
};

} // namespace pageferry::plugin
