#include "perf/stats.h"

#include <algorithm>
#include <vector>

namespace pageferry::perf {

Spread spread_of(std::span<const double> samples) {
    if (samples.empty()) {
        return {};
    }
    std::vector<double> sorted{samples.begin(), samples.end()};
    std::ranges::sort(sorted);
    const std::size_t middle = sorted.size() / 2;
    const double median = sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
    return Spread{.median = median, .min = sorted.front(), .max = sorted.back()};
}

Latency latency_of(std::span<const double> samples) {
    if (samples.empty()) {
        return {};
    }
    std::vector<double> sorted{samples.begin(), samples.end()};
    std::ranges::sort(sorted);
    const auto at = [&](std::size_t percent) { return sorted[((sorted.size() * percent + 99) / 100) - 1]; };
    return Latency{.count = sorted.size(), .p50 = at(50), .p99 = at(99), .max = sorted.back()};
}

} // namespace pageferry::perf
