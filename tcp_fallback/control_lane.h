// The control lane: whole messages, in order, on a socket of its own, so that pages never hold them up.
//
// send() writes at once where the socket has room; what does not fit is kept, bounded, and a thread writes it, so that a message
// is either taken whole or not at all.
//
// Threads: send() any; receive() one at a time; flusher() is a thread's whole life.
#pragma once

#include "tcp_fallback/kit.h"
#include "tcp_fallback/lane.h"
#include "transport/abi/pageferry_transport.h"
#include "transport/plugin/deadline.h"
#include "transport/plugin/ending.h"
#include "transport/plugin/threads.h"

#include <cstddef>
#include <mutex>
#include <span>
#include <vector>

namespace pageferry::tcp {

class ControlLane {
public:
    ControlLane(const Lane& lane, const Ending& ending);

    // timed_out: no room in time, nothing was sent. The connection's own error when it is over.
    Outcome<void> send(std::span<const std::byte> message, const Deadline& deadline);
    // The message's length, 0: none came in time. What the peer sent before it closed still comes out afterwards.
    Outcome<std::size_t> receive(std::span<std::byte> buffer, const Deadline& deadline);

    void flusher();
    // Everything sent is with the kernel. false: the deadline passed, or the connection is over.
    bool flush(const Deadline& deadline);
    // Reads and drops what is here unread: with it, closing the socket would be a reset, which can overtake our last messages.
    void drain();
    // The connection is over, or ends: waiters go on.
    void end();

private:
    bool give_up(Fault fault);
    // A whole message out of what has been read already; 0: not there yet.
    Outcome<std::size_t> take_message(std::span<std::byte> buffer);

    const Lane& lane_;
    const Ending& ending_;

    std::mutex mutex_; // sending
    Condition changed_;
    std::vector<std::byte> kept_; // not written yet
    bool flushing_ = false;       // the flusher is writing
    bool ended_ = false;

    std::vector<std::byte> read_; // receiving: bytes begin_..end_ are here and not handed out
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
    bool peer_ended_ = false;
};

} // namespace pageferry::tcp
