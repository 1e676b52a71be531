// How and why a connection came to its end: the first error, kept for every later call, and an event for those who wait in
// poll(2).
//
// Threads: any.
#pragma once

#include "base/fd.h"
#include "transport/plugin/deadline.h"
#include "transport/plugin/fault.h"

#include <atomic>
#include <mutex>

namespace pageferry::plugin {

class Ending {
public:
    // The event is one of make_event().
    explicit Ending(Fd event) : event_(std::move(event)) {}

    [[nodiscard]] bool over() const { return over_.load(std::memory_order_acquire); }
    [[nodiscard]] int event() const { return event_.get(); }
    // The first error (once over); after cancel(), that it was cancelled.
    [[nodiscard]] Fault why() const;
    [[nodiscard]] Clock::time_point when() const;

    // true: this is the first error.
    bool record(Fault fault);
    // A cancelled connection answers "cancelled" whatever came before; the reason still tells what that was.
    void cancel();

private:
    Fd event_;
    std::atomic<bool> over_{false};
    mutable std::mutex mutex_;
    Fault first_;
    Clock::time_point when_;
};

} // namespace pageferry::plugin
