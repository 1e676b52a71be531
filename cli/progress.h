// From snapshots to what a person wants to know: how far, how fast, how long still.
//
// Pure: time is an argument. Threads: a Progress belongs to one thread at a time.
#pragma once

#include "cli/snapshot.h"

#include <chrono>
#include <cstdint>
#include <optional>

namespace pageferry::cli {

// 0..100: the part of guest RAM that need not be sent any more; 100 when completed; empty where the monitor gives no figures.
std::optional<double> percent_done(const Snapshot& snapshot);

// Time until `remaining` bytes are dealt with at `rate`, while the guest makes new dirty pages at `dirty_rate` (bytes per
// second). Empty when it would never get there.
std::optional<std::chrono::milliseconds> time_left(std::uint64_t remaining, double rate, double dirty_rate);

// A value smoothed over time: an exponential moving average that weighs a sample by how long it stands for, so that samples at
// uneven intervals are treated alike.
class SmoothedRate {
public:
    explicit SmoothedRate(std::chrono::duration<double> time_constant) : time_constant_(time_constant) {}
    // `counter` as it stands at `now`. A counter that went back (a new migration) starts afresh.
    void update(std::uint64_t counter, std::chrono::steady_clock::time_point now);
    [[nodiscard]] std::optional<double> per_second() const { return rate_; } // empty before the second sample
    void reset();

private:
    std::chrono::duration<double> time_constant_;
    std::optional<std::uint64_t> last_;
    std::chrono::steady_clock::time_point last_time_;
    std::optional<double> rate_;
};

struct ProgressView {
    Snapshot snapshot;
    std::optional<double> percent;
    std::optional<double> rate;   // bytes per second, smoothed; in postcopy of what the destination fetches
    std::optional<double> faults; // per second, in postcopy
    std::optional<std::chrono::milliseconds> eta;
    bool converges = true; // false: the guest writes faster than it can be sent
    std::optional<unsigned> lanes;
    std::chrono::microseconds time{0}; // since 1970
};

class Progress {
public:
    ProgressView update(const Snapshot& snapshot, std::chrono::steady_clock::time_point now);

private:
    void postcopy(ProgressView& view, std::chrono::steady_clock::time_point now);
    void forget();

    SmoothedRate rate_{std::chrono::seconds{2}};  // on the wire
    SmoothedRate drain_{std::chrono::seconds{2}}; // of guest RAM: zero pages cost no bytes, but they count in what is left
    SmoothedRate faults_{std::chrono::seconds{2}};
    bool in_postcopy_ = false;
};

} // namespace pageferry::cli
