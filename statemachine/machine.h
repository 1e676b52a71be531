// The state of one side of a migration, and the queue its changes leave by.
//
// Threads: every function of Machine may be called by any thread; transitions are ordered, and events enter the queue in that
// order. EventQueue: any thread puts (only Machine does; several machines may share a queue), one thread takes. Putting never
// waits for the reader.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "statemachine/status.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace pageferry::statemachine {

struct Event {
    std::uint64_t sequence = 0; // 1, 2, 3, ... without a gap, for each machine
    Side side = Side::source;
    Status from = Status::none;
    Status to = Status::none;
    Cause cause = Cause::requested;
    std::chrono::system_clock::time_point time; // what QMP's timestamp shows
    std::string error;                          // of a failure or a pause: what happened
};

// State events on their way to whoever reports them: none lost, none reordered, the writer never blocked by the reader.
// It grows with a reader that does not read; its memory is given back when the queue goes.
class EventQueue {
public:
    EventQueue();
    ~EventQueue();
    EventQueue(const EventQueue&) = delete;
    EventQueue& operator=(const EventQueue&) = delete;

    void put(Event event);
    [[nodiscard]] std::optional<Event> take(); // never waits
    // An eventfd, readable while events may be there; take() until empty clears it. -1 when the process had no descriptor left:
    // the queue works all the same, but nobody can be woken by it.
    [[nodiscard]] int readable_fd() const;

private:
    struct Implementation; // Boost.Lockfree stays out of this header
    std::unique_ptr<Implementation> implementation_;
};

class Machine {
public:
    // `events` outlives the machine. No event tells of the first status; it is not `none` where another process had brought the
    // migration so far.
    Machine(Side side, EventQueue& events, Status first = Status::none);

    [[nodiscard]] Side side() const { return side_; }
    [[nodiscard]] Status status() const { return status_.load(std::memory_order_acquire); }
    [[nodiscard]] std::string error() const; // text of the latest failure or pause; a new start, or a recovery, clears it

    // From whatever it is now. On success the status is changed and its event is in the queue when the call returns.
    // Error `state` when the table has no such transition: nothing is changed, nothing enters the queue, and the text says side,
    // from, to, cause, and what would be legal.
    Result<void> transition(Status to, Cause cause, std::string error = {});
    // Only from the given status; the same error when another thread was quicker.
    Result<void> transition_from(Status from, Status to, Cause cause, std::string error = {});

private:
    Result<void> move(std::optional<Status> expected, Status to, Cause cause, std::string error);

    Side side_;
    EventQueue& events_;
    std::atomic<Status> status_{Status::none};
    mutable std::mutex mutex_; // orders transitions; held for a few instructions
    std::uint64_t sequence_ = 0;
    std::string error_;
};

} // namespace pageferry::statemachine
