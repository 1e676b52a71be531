#include "statemachine/machine.h"

#include <boost/lockfree/queue.hpp>

#include <sys/eventfd.h>
#include <unistd.h>

#include <utility>

namespace pageferry::statemachine {

struct EventQueue::Implementation {
    // Pointers, because the queue holds trivial types alone. Not fixed-sized: a full queue would have to lose an event or to
    // wait.
    boost::lockfree::queue<Event*, boost::lockfree::fixed_sized<false>> events{64};
    Fd wake{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    // Between writers only, and only when machines share a queue: a machine's own mutex has already ordered its threads.
    std::mutex writers;
};

EventQueue::EventQueue() : implementation_(std::make_unique<Implementation>()) {}

EventQueue::~EventQueue() {
    Event* event = nullptr;
    while (implementation_->events.pop(event)) {
        delete event;
    }
}

void EventQueue::put(Event event) {
    auto* const node = new Event(std::move(event)); // take() or the destructor deletes it
    {
        const std::lock_guard lock{implementation_->writers};
        implementation_->events.push(node); // unbounded: does not answer false
    }
    // NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDeleteLeaks): the queue has it
    const std::uint64_t one = 1;
    // It could only fail with EAGAIN at 2^64 - 2 unread events, when the descriptor is readable anyway.
    [[maybe_unused]] const ssize_t written = ::write(implementation_->wake.get(), &one, sizeof one);
}

std::optional<Event> EventQueue::take() {
    Event* event = nullptr;
    if (!implementation_->events.pop(event)) {
        // Clear first, then look again: an event put in between is either seen now or makes the descriptor readable again.
        std::uint64_t count = 0;
        [[maybe_unused]] const ssize_t got = ::read(implementation_->wake.get(), &count, sizeof count);
        if (!implementation_->events.pop(event)) {
            return std::nullopt;
        }
    }
    const std::unique_ptr<Event> owned{event};
    return std::move(*owned);
}

int EventQueue::readable_fd() const {
    return implementation_->wake.get();
}

} // namespace pageferry::statemachine
