// Figures of several runs.
//
// Pure; any thread.
#pragma once

#include <cstddef>
#include <span>

namespace pageferry::perf {

struct Spread {
    double median = 0;
    double min = 0;
    double max = 0;
};

// How long something took, many times, in seconds.
struct Latency {
    std::size_t count = 0;
    double p50 = 0;
    double p99 = 0;
    double max = 0;
};

// The samples' nearest ranks. No samples: all 0.
Latency latency_of(std::span<const double> samples);

// Of an even number, the mean of the two in the middle. No samples: all 0.
Spread spread_of(std::span<const double> samples);

} // namespace pageferry::perf
