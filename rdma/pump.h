// Waits for completions: the thread that asks polls in bounds, then sleeps on the completion channel, so that an idle connection
// costs nothing. Several threads may wait at once; one of them sleeps on the channel, and tells the others when something came.
//
// Threads: any, all under the owner's lock.
#pragma once

#include "base/fd.h"
#include "rdma/handles.h"
#include "rdma/kit.h"
#include "transport/plugin/deadline.h"
#include "transport/plugin/ending.h"
#include "transport/plugin/threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <mutex>

namespace pageferry::rdma {

class Pump {
public:
    // handle is called for each completion, under the lock. The queue notifies the channel; both outlive the pump. busy: for how
    // long after a completion the queue is polled before anybody sleeps.
    Pump(ibv_cq* queue, ibv_comp_channel* channel, const Ending& ending, Fd kick, std::chrono::microseconds busy,
         std::function<void(const ibv_wc&)> handle)
        : queue_(queue), channel_(channel), ending_(ending), kick_(std::move(kick)), busy_(busy), handle_(std::move(handle)) {}

    // Handles completions until done() is true, which it answers, or false: the deadline has passed, or the connection is over.
    // Completions that are there are handled in any case.
    template <class Done>
    bool run(std::unique_lock<std::mutex>& lock, const Deadline& deadline, Done done) {
        for (;;) {
            drain();
            if (done()) {
                return true;
            }
            if (ending_.over() || deadline.passed()) {
                return false;
            }
            wait(lock, deadline);
        }
    }
    // Takes the owner's lock, before a thread that polls and gives it back only between two looks.
    [[nodiscard]] std::unique_lock<std::mutex> enter(std::mutex& mutex) {
        wanted_.fetch_add(1);
        std::unique_lock lock{mutex};
        wanted_.fetch_sub(1);
        return lock;
    }
    // A completion is going to come soon: so long whoever waits polls. True: he sleeps, and wake() has him awake by then.
    bool expect(Clock::duration busy) {
        busy_until_ = std::max(busy_until_, Clock::now() + busy);
        return sleeping_;
    }
    void wake() const; // with or without the lock
    // All that is there now, up to where somebody else wants the lock. How many completions it was.
    std::size_t drain();
    // Something a waiter's done() looks at has changed. Under the lock.
    void notify();

private:
    void wait(std::unique_lock<std::mutex>& lock, const Deadline& deadline);
    void sleep(const Deadline& deadline) const;

    ibv_cq* const queue_;
    ibv_comp_channel* const channel_;
    const Ending& ending_;
    const Fd kick_; // wakes the one who sleeps
    const Clock::duration busy_;
    const std::function<void(const ibv_wc&)> handle_;
    Condition changed_;
    // So long after a completion the queue is polled. It is not begun anew with each call: an idle connection is not polled when
    // somebody asks for a message.
    Clock::time_point busy_until_;
    bool sleeping_ = false;           // one thread, on the channel
    std::atomic<unsigned> wanted_{0}; // threads in enter() without the lock yet
};

// What stands for a completion where the queue itself cannot be read: IBV_WC_FATAL_ERR, of no work request.
ibv_wc unreadable_queue();

// An eventfd that can be raised and taken back; the channel's descriptor made non-blocking.
Result<Fd> make_kick();
Result<void> set_nonblocking(int fd);

} // namespace pageferry::rdma
