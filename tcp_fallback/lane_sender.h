// The sending thread of a data lane: takes turns from Work and writes them straight from the guest's memory.
//
// Threads: run() is a thread's whole life; it ends when the connection is over.
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

private:
    void compose(const Turn& turn);
    void add_frame(FrameType type, std::uint64_t number, std::span<const Part> parts);
    bool send();

    const Lane& lane_;
    Work& work_;
    std::vector<std::byte> headers_; // of one turn's frames; never moves, the vectors below point into it
    std::size_t used_ = 0;
    std::vector<iovec> vectors_;
};

} // namespace pageferry::tcp
