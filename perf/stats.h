// Figures of several runs.
//
// Pure; any thread.
#pragma once

#include <span>

namespace pageferry::perf {

struct Spread {
    double median = 0;
    double min = 0;
    double max = 0;
};

// Of an even number, the mean of the two in the middle. No samples: all 0.
Spread spread_of(std::span<const double> samples);

} // namespace pageferry::perf
