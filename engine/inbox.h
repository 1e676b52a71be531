// Receives the peer's control messages on a thread of its own, so that heartbeats go on whatever the engine waits for.
//
// The first error (peer gone, peer's Failure, protocol) is kept and the connection cancelled with it, so that a push or a fence
// the engine waits in ends too. Threads: wait() and error() by the engine's thread; the inbox's own is
// "pf-control".
#pragma once

#include "base/error.h"
#include "transport/connection.h"
#include "transport/session/channel.h"
#include "transport/session/messages.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

namespace pageferry::engine {

class Inbox {
public:
    Inbox(transport::Connection& connection, transport::session::Channel& channel);
    ~Inbox(); // ends the thread, within the length of one receive
    Inbox(const Inbox&) = delete;
    Inbox& operator=(const Inbox&) = delete;

    // The next message; empty: none in time. After an error, that error again and again.
    Result<std::optional<transport::session::Message>> wait(std::chrono::milliseconds timeout);
    // The wait() under way, or the next one, answers empty at once. Any thread.
    void wake();
    [[nodiscard]] std::optional<Error> error() const;
    // What the peer's last word says of an error seen elsewhere. That word may still be on its way here when another lane, or a
    // call on the connection, meets the peer's end: then it is waited for, in bounds.
    [[nodiscard]] Error cause_of(const Error& seen);
    // From here on the end of the connection is no error: the peer has said goodbye or is about to.
    void expect_end();

private:
    void run();

    transport::Connection& connection_;
    transport::session::Channel& channel_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<transport::session::Message> messages_;
    std::optional<Error> error_;
    bool stop_ = false;
    bool end_expected_ = false;
    bool woken_ = false;
    std::thread thread_;
};

} // namespace pageferry::engine
