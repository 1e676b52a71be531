// Keeps the mean rate of pushes at or below max-bandwidth: a token bucket. Pure arithmetic on the times it is given.
//
// Threads: one.
#pragma once

#include <chrono>
#include <cstdint>

namespace pageferry::engine {

class Pacer {
public:
    using Clock = std::chrono::steady_clock;
    // Bytes that may be sent at once after a pause: a tenth of a second's worth, and never less than one extent.
    static constexpr std::chrono::milliseconds burst{100};

    // How many of `wanted` bytes may go now, with `rate` bytes per second (0: all of them). The rate may differ at every call.
    std::uint64_t allow(std::uint64_t wanted, std::uint64_t rate, Clock::time_point now);
    // How long to wait until something may go.
    [[nodiscard]] std::chrono::microseconds wait(std::uint64_t rate) const;
    // Bytes of the allowance that were not used after all.
    void give_back(std::uint64_t bytes) { tokens_ += static_cast<double>(bytes); }
    // Bytes that went beyond the allowance, for they cannot be divided: nothing may go until the rate has made up for them.
    void owe(std::uint64_t bytes) { tokens_ -= static_cast<double>(bytes); }

private:
    double tokens_ = 0; // bytes
    Clock::time_point last_;
};

} // namespace pageferry::engine
