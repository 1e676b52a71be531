#include "engine/convergence.h"

namespace pageferry::engine {

namespace {
// A handful of pages tells nothing of the bandwidth: what is measured then is the round trip.
constexpr std::uint64_t least_sample = 1 << 20; // bytes
} // namespace

void Convergence::pushed(std::uint64_t bytes, std::chrono::nanoseconds took) {
    if (took.count() <= 0 || (bytes < least_sample && bandwidth_ != 0)) {
        return;
    }
    const double sample = static_cast<double>(bytes) / std::chrono::duration<double>(took).count();
    // The newest sample counts for half: it follows a changed link within a few rounds, and one odd round does not end a
    // migration too early.
    bandwidth_ = static_cast<std::uint64_t>(bandwidth_ == 0 ? sample : (static_cast<double>(bandwidth_) + sample) / 2);
}

std::chrono::milliseconds Convergence::expected_downtime(std::uint64_t bytes, std::uint64_t fixed) const {
    const std::uint64_t rate = fixed != 0 ? fixed : bandwidth_;
    if (bytes == 0) {
        return std::chrono::milliseconds{0};
    }
    if (rate == 0) {
        return std::chrono::milliseconds::max();
    }
    return std::chrono::milliseconds{static_cast<std::int64_t>(static_cast<double>(bytes) / static_cast<double>(rate) * 1000.0)};
}

bool Convergence::converged(std::uint64_t bytes, std::uint64_t fixed, std::chrono::milliseconds limit) const {
    return expected_downtime(bytes, fixed) <= limit;
}

} // namespace pageferry::engine
