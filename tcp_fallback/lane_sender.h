// The sending thread of a data lane: takes turns from Work and writes them straight from the guest's memory.
//
// On the urgent lane whoever has something to send does it at once, in place of the thread, for a fault waits for it: one wake-up
// less on either side. What the socket does not take then is left to the thread.
//
// Threads: run() is a thread's whole life; it ends when the connection is over. send_now(): any.
#pragma once

#include "tcp_fallback/lane.h"
#include "tcp_fallback/work.h"

#include <sys/uio.h>

#include <cstddef>
#include <span>
#include <vector>

namespace pageferry::tcp {

class LaneSender {
public:
    LaneSender(const Lane& lane, Work& work);
    void run();
    void send_now(); // on the urgent lane; never blocks

private:
    void compose(const Turn& turn);
    void add_frame(FrameType type, std::uint64_t number, std::span<const Part> parts);
    // All of left_; with MSG_DONTWAIT, what the socket takes. false: the connection is over.
    bool send(int flags);

    const Lane& lane_;
    Work& work_;
    std::vector<std::byte> headers_; // of one turn's frames; never moves, the vectors below point into it
    std::size_t used_ = 0;
    std::vector<iovec> vectors_;
    std::span<iovec> left_; // of vectors_, not sent yet
    Turn turn_;             // of the thread, or of the one in its place
};

} // namespace pageferry::tcp
