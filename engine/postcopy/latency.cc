#include "engine/postcopy/latency.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace pageferry::engine {

std::optional<double> percentile(std::span<const std::uint64_t> buckets, double percent) {
    double total = 0;
    for (const std::uint64_t count : buckets) {
        total += static_cast<double>(count);
    }
    if (total == 0) {
        return std::nullopt;
    }
    // The rank of the one asked for, among those sorted: at least the first.
    double left = std::max(1.0, std::clamp(percent, 0.0, 100.0) / 100 * total);
    for (std::size_t n = 0; n < buckets.size(); ++n) {
        const auto count = static_cast<double>(buckets[n]);
        const double low = n == 0 ? 0 : std::ldexp(1.0, static_cast<int>(n));
        const double high = std::ldexp(1.0, static_cast<int>(n) + 1);
        if (count > 0 && left <= count) {
            return low + (high - low) * left / count;
        }
        left -= count;
    }
    return std::ldexp(1.0, static_cast<int>(buckets.size())); // what rounding has left over
}

} // namespace pageferry::engine
