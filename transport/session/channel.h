// Session messages over a connection's control lane, with heartbeats both ways, so that a peer that died, or a path that was cut,
// is found in a bounded time even while neither side has anything to say.
//
// It has no thread of its own: heartbeats are sent, and silence is counted, within receive(). So one thread has to be in
// receive() most of the time; the time it spends elsewhere delays heartbeats, and is not counted as the peer's silence beyond one
// heartbeat interval.
//
// Threads: send() by any; receive() by one at a time. The connection must outlive the channel and must not move; cancel() on it
// ends a receive() under way.
#pragma once

#include "base/error.h"
#include "transport/connection.h"
#include "transport/session/messages.h"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace pageferry::transport::session {

class Channel {
public:
    // dead_peer: how long the peer may say nothing. Heartbeats go out every quarter of it, at least every second, so that peers
    // with different settings do not give each other up.
    Channel(Connection& connection, Milliseconds dead_peer);
    Channel(const Channel&) = delete;
    Channel& operator=(const Channel&) = delete;

    // The message is on its way. invalid_argument: it breaks a limit of the protocol, nothing was sent; timed_out: the lane did
    // not take it for the time in which a peer counts as dead; else the connection's error.
    Result<void> send(const Message& message);
    // The same with a time of its own: for a last word that nobody should wait for.
    Result<void> send_within(const Message& message, Milliseconds timeout);

    // The next message; empty when none came in time. timed_out: the peer said nothing for dead_peer. protocol: it said
    // something that is not the protocol. A Failure from the peer comes as an error with the peer's code and text. Else the
    // connection's error. Heartbeats of the peer never show.
    Result<std::optional<Message>> receive(Milliseconds timeout);

    // The peer said itself that it failed: receive() answered its Failure. Any thread.
    [[nodiscard]] bool peer_failed() const { return peer_failed_.load(std::memory_order_acquire); }
    [[nodiscard]] const std::string& peer() const { return peer_; } // as the connection describes it

private:
    using Clock = std::chrono::steady_clock;

    Result<void> heartbeat_if_due();
    [[nodiscard]] Error silent() const;
    Result<std::optional<Message>> take(std::span<const std::byte> bytes);

    Connection& connection_;
    const Milliseconds dead_peer_;
    const Milliseconds interval_; // between heartbeats
    const std::string peer_;
    std::atomic<bool> peer_failed_{false};
    std::atomic<Clock::rep> last_sent_; // a time point of Clock, in its own units
    // Of the receiving thread alone:
    Clock::time_point last_look_;
    Clock::duration silence_{};
    std::vector<std::byte> buffer_;
};

} // namespace pageferry::transport::session
