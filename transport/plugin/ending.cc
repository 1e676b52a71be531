#include "transport/plugin/ending.h"

#include "transport/plugin/events.h"

namespace pageferry::plugin {

Fault Ending::why() const {
    const std::scoped_lock lock{mutex_};
    return first_;
}

Clock::time_point Ending::when() const {
    const std::scoped_lock lock{mutex_};
    return when_;
}

bool Ending::record(Fault fault) {
    const std::scoped_lock lock{mutex_};
    if (over_.load(std::memory_order_relaxed)) {
        return false;
    }
    first_ = std::move(fault);
    when_ = Clock::now();
    over_.store(true, std::memory_order_release);
    raise_event(event_.get());
    return true;
}

void Ending::cancel() {
    const std::scoped_lock lock{mutex_};
    const bool first = !over_.load(std::memory_order_relaxed);
    if (!first && first_.error.code == ErrorCode::cancelled) {
        return;
    }
    std::string reason = first ? "cancelled" : "cancelled, after: " + first_.error.to_string();
    first_ = Fault{.error = make_error(ErrorCode::cancelled, "cancel", "connection", std::move(reason)),
                   .lane = first_.lane,
                   .phase = first_.phase};
    when_ = Clock::now();
    over_.store(true, std::memory_order_release);
    raise_event(event_.get());
}

} // namespace pageferry::plugin
