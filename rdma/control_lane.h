// The control lane: the caller's messages by SEND and RECV, as many under way as the peer has buffers for, so that no message
// ever meets a peer without one (receiver-not-ready).
//
//   message: 16 bytes, then the bytes:  0 u32 magic 0x4c525443   4 u32 length (0: credits alone)   8 u32 taken   12 u32 zero
//   taken: how many messages (not counting those of credits alone) its sender has taken from us, modulo 2^32
//
// Of the 34 buffers 32 are for messages and 2 for credits: those are sent when half of the 32 have been taken and nothing else
// carries the number, so that no more than 2 can be waiting.
//
// A sender posts in its own thread, and the one who receives polls in its own: no hand-over between threads on the way.
//
// Threads: send() by any; receive() by one at a time.
#pragma once

#include "rdma/kit.h"
#include "rdma/lane_set.h"
#include "rdma/pump.h"
#include "transport/plugin/deadline.h"
#include "transport/plugin/ending.h"
#include "transport/plugin/fault.h"

#include <array>
#include <atomic>
#include <bitset>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <span>

namespace pageferry::rdma {

class ControlLane {
public:
    // fail: told of what ends the connection; consequence: it is only another error's (a flushed request).
    using Fail = std::function<void(Fault fault, bool consequence)>;

    ControlLane(LaneSet& set, const Ending& ending, Fd kick, Fail fail);

    Outcome<void> send(std::span<const std::byte> message, const Deadline& deadline);
    // 0: none in time. What had arrived when the peer closed is still given out.
    Outcome<std::size_t> receive(std::span<std::byte> buffer, const Deadline& deadline);
    // All that was sent has been acknowledged by the peer's device. false: not in time.
    bool flush(const Deadline& deadline);

    [[nodiscard]] std::uint64_t wire_bytes() const { return wire_bytes_.load(std::memory_order_relaxed); }

private:
    static constexpr std::uint32_t credits = control_slots - 2;

    void handle(const ibv_wc& completion);
    void arrived(std::size_t slot, std::size_t bytes);
    // Under the lock. A slot is free and, for a message, a credit too.
    Outcome<void> post(std::span<const std::byte> message);
    Outcome<void> repost(std::size_t slot);
    void give_credits();
    [[nodiscard]] bool may_post() const { return !free_.none() && in_flight_ < lane_.send_depth; }
    [[nodiscard]] bool may_send() const { return sent_ - peer_taken_ < credits && may_post(); }
    [[nodiscard]] Fault over(const char* operation, const Deadline& deadline) const;

    LaneSet& set_;
    const Lane& lane_;
    const Ending& ending_;
    const Fail fail_;
    std::mutex mutex_;
    Pump pump_;
    std::bitset<control_slots> free_; // slots to send from
    std::uint32_t in_flight_ = 0;     // posted and not completed
    std::uint32_t sent_ = 0;          // messages, modulo 2^32
    std::uint32_t peer_taken_ = 0;    // of them
    std::uint32_t taken_ = 0;         // messages of the peer
    std::uint32_t told_ = 0;          // as the peer knows it
    struct Arrived {
        std::size_t slot;
        std::size_t length;
    };
    std::deque<Arrived> inbox_; // at most `credits`
    std::atomic<std::uint64_t> wire_bytes_{0};
};

} // namespace pageferry::rdma
