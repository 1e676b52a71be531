// Percentiles of fault latencies, from a histogram as Postcopy::latency has it.
//
// Threads: any; a pure function.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace pageferry::engine {

// Microseconds that `percent` (0 to 100) of the latencies did not exceed, from how many were in [2^N, 2^(N+1)) microseconds; the
// first bucket begins at 0. Within a bucket they are taken as evenly spread, the last of them at its upper end; of the last
// bucket, which has no end, the same. Nothing where there were none.
std::optional<double> percentile(std::span<const std::uint64_t> buckets, double percent);

} // namespace pageferry::engine
