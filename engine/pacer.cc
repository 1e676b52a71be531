#include "engine/pacer.h"

#include <algorithm>

namespace pageferry::engine {

namespace {
// Below this nothing is sent: extents of a few bytes would cost more than they carry.
constexpr double smallest = 64.0 * 1024;
} // namespace

std::uint64_t Pacer::allow(std::uint64_t wanted, std::uint64_t rate, Clock::time_point now) {
    const std::chrono::duration<double> passed = now - last_;
    last_ = now;
    if (rate == 0) {
        tokens_ = 0;
        return wanted;
    }
    const auto per_second = static_cast<double>(rate);
    const double most = std::max(per_second * std::chrono::duration<double>(burst).count(), smallest);
    tokens_ = std::min(tokens_ + per_second * std::max(passed.count(), 0.0), most);
    const double smallest_now = std::min(smallest, static_cast<double>(wanted));
    if (tokens_ < smallest_now) {
        return 0;
    }
    const auto allowed = std::min(wanted, static_cast<std::uint64_t>(tokens_));
    tokens_ -= static_cast<double>(allowed);
    return allowed;
}

std::chrono::microseconds Pacer::wait(std::uint64_t rate) const {
    if (rate == 0 || tokens_ >= smallest) {
        return std::chrono::microseconds{0};
    }
    const double seconds = (smallest - tokens_) / static_cast<double>(rate);
    return std::chrono::microseconds{static_cast<std::int64_t>(std::min(seconds, 1.0) * 1e6) + 1};
}

} // namespace pageferry::engine
