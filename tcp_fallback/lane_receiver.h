// The receiving thread of a data lane: reads frames, and the bytes of pages straight into the guest's memory. One system call
// takes a frame's pages and the beginning of the next frame.
//
// Threads: run() is a thread's whole life; it ends when the connection is over.
#pragma once

#include "tcp_fallback/lane.h"
#include "tcp_fallback/lane_sender.h"
#include "tcp_fallback/memory_gate.h"
#include "tcp_fallback/wire.h"
#include "tcp_fallback/work.h"

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <span>
#include <vector>

namespace pageferry::tcp {

class LaneReceiver {
public:
    // sender: the same lane's.
    LaneReceiver(const Lane& lane, Work& work, MemoryGate& gate, LaneSender& sender);
    void run();

private:
    // All answer false when the connection is over; the reason has then been told.
    bool take_frame();
    bool handle(const Frame& frame);
    bool read_pieces(const Frame& frame);
    bool take_data();
    bool take_requests(const Frame& frame);
    bool take_answers(const Frame& frame);
    // Which pieces of parts_ are allowed, and where they are.
    bool locate(std::uint32_t right);
    // The bytes of parts_ into memory. left: how many of them were not read, for the gate was shut on the way; else 0.
    bool land(MemoryGate::With what, std::size_t& left);
    bool read(std::span<std::byte> into);
    bool wait_for_bytes();
    bool give_up(Fault fault);
    bool broken(std::string reason);

    const Lane& lane_;
    Work& work_;
    MemoryGate& gate_;
    LaneSender& sender_;
    std::array<std::byte, frame_bytes> header_{};
    std::size_t have_ = 0; // bytes of header_ that are here already
    std::vector<std::byte> raw_pieces_;
    std::vector<Part> parts_;
    std::vector<iovec> vectors_;
};

} // namespace pageferry::tcp
