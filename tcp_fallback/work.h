// What a connection has to do, and for whom: the meeting place of the caller's threads (push, pull, poll, fence) and the lanes'
// threads. A sender asks for its next turn and gets as much as fits one system call; a receiver reports what came.
//
// Pull requests stay within a window of each lane, so that the lanes share the answers by speed and the peer's queue of answers
// is bounded: a receiver never waits for room, so two sides that pull from each other cannot block each other.
//
// Threads: any; one lock, taken once for a turn or a frame, never for a page. No input or output here.
#pragma once

#include "tcp_fallback/kit.h"
#include "tcp_fallback/op_queue.h"
#include "transport/plugin/memory_table.h"
#include "transport/plugin/op_kind.h"
#include "transport/plugin/ring.h"
#include "transport/plugin/threads.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

namespace pageferry::tcp {

inline constexpr std::uint32_t turn_bytes = 2U << 20U; // page bytes of one kind in one turn, so also the largest piece
// The same of pulls, requests and answers: a fault's answer has to wait for a processor until such a turn is over.
inline constexpr std::uint32_t pull_turn_bytes = 512U << 10U;
inline constexpr std::uint64_t pull_window_bytes = 8ULL << 20U; // asked for on one lane and not yet here

// Everything a sender puts on the wire in one go, in this order. The storage is kept from turn to turn.
struct Turn {
    std::optional<std::uint64_t> fenced;
    std::vector<Part> requests;
    std::uint64_t first_request = 0;
    std::vector<Part> replies;
    std::uint64_t first_reply = 0;
    std::vector<Part> data;
    std::optional<std::uint64_t> fence; // covers data, and all that this lane sent before
};

enum class Waited { done, timed_out, ended };

class Work {
public:
    // bulk_lanes lanes, 0..bulk_lanes-1, and the urgent lane, number bulk_lanes. depth: operations of each kind under way at
    // once.
    Work(std::size_t bulk_lanes, std::size_t depth);

    // -- the caller's threads. All extents are known to be in the table.
    // How many were taken, from the first. After urgent ones borrow() is to follow: the sender is not woken.
    std::size_t submit(OpKind kind, const MemoryTable& table, std::span<const pf_extent> extents);
    // Completions fetched: > 0 when done.
    Waited poll(std::span<pf_completion> completions, std::size_t& count, const Deadline& deadline);
    Waited fence(const Deadline& deadline);

    // An urgent pull has been sent: who waits in poll() is awake when its answer comes. Beside bulk pulls he is awake often
    // enough, and processors have better to do.
    void expect();

    // -- lane threads
    // Blocks until there is something to send; false: the connection is over. The turn stays as it is where a borrower has left
    // some of it, which goes first.
    bool next(std::size_t lane, Turn& turn);
    void sent(const Turn& turn);
    // The turn of the urgent lane, for a thread that would otherwise have to wake its sender. true: it is the caller's to send,
    // and to be followed by after_borrowed(). false: the sender is at it, or there is nothing. Never blocks.
    bool borrow(Turn& turn);
    // That turn has gone out, and true: here is the next one. whole: else the sender sends the rest, and whatever comes next.
    bool after_borrowed(Turn& turn, bool whole);
    // The peer asks for these pieces, numbered from number. false: not its next numbers, or more than may be unanswered. On the
    // urgent lane borrow() is to follow: its sender is not woken.
    bool owe_replies(std::size_t lane, std::uint64_t number, std::span<const Part> parts);
    void owe_fenced(std::size_t lane, std::uint64_t sequence);
    // Which requests the peer is about to answer: addresses in parts are filled in.
    // false: not the answers to this lane's oldest requests.
    bool claim(std::size_t lane, std::uint64_t number, std::span<Part> parts);
    // The oldest requests, count of them, have been answered and are where they belong.
    void landed(std::size_t lane, std::size_t count);
    // false: there was no such fence.
    bool fenced(std::size_t lane, std::uint64_t sequence);

    // The connection is over: everyone who waits goes on.
    void end();

    [[nodiscard]] std::uint64_t bytes_pushed() const;
    [[nodiscard]] std::uint64_t bytes_pulled() const;

private:
    struct Lane {
        Condition wake;
        bool idle = false;      // its sender waits
        bool borrowed = false;  // another thread sends in its place
        bool left_over = false; // and has not sent all
        std::uint64_t fence_sent = 0;
        std::uint64_t fence_landed = 0;
        std::uint64_t fenced_owed = 0;
        std::uint64_t fenced_said = 0;
        Ring<Part> asked{max_requests}; // our requests without an answer yet
        std::uint64_t first_asked = 0;  // number of asked.front()
        std::uint64_t asked_bytes = 0;
        Ring<Part> owed{max_requests}; // the peer's requests not answered yet
        std::uint64_t first_owed = 0;
    };
    struct Finished {
        pf_completion completion;
        OpKind kind = OpKind::push;
        std::uint32_t slot = 0;
    };

    [[nodiscard]] OpQueue& queue(OpKind kind) { return queues_[static_cast<std::size_t>(kind)]; }
    [[nodiscard]] bool is_urgent(std::size_t lane) const { return lane + 1 == lanes_.size(); }
    [[nodiscard]] OpKind pull_kind(std::size_t lane) const { return is_urgent(lane) ? OpKind::pull_urgent : OpKind::pull; }
    bool fill(std::size_t lane, Turn& turn);
    static void clear(Turn& turn);
    void fill_requests(std::size_t lane, Turn& turn);
    [[nodiscard]] static bool may_ask(const Lane& lane) { return !lane.asked.full() && lane.asked_bytes < pull_window_bytes; }
    void wake_for(OpKind kind);
    void wake(Lane& lane);
    [[nodiscard]] bool finished() const { return !finished_.empty() || !finished_urgent_.empty(); }
    void look_for_news(std::unique_lock<std::mutex>& lock, const Deadline& until);
    void complete(OpKind kind, std::uint32_t slot, std::uint64_t cookie);

    mutable std::mutex mutex_;
    Condition done_;                           // completions, or the end
    Condition landed_;                         // fences, or the end
    std::vector<std::unique_ptr<Lane>> lanes_; // bulk, then urgent
    std::array<OpQueue, 3> queues_;
    Ring<Finished> finished_;
    Ring<Finished> finished_urgent_; // fetched first
    std::uint64_t fence_wanted_ = 0;
    std::uint64_t fence_after_ = 0; // pushes up to this one are covered
    std::uint64_t bytes_pushed_ = 0;
    std::uint64_t bytes_pulled_ = 0;
    bool ended_ = false;
    bool sleeping_ = false;              // somebody in poll()
    Clock::time_point expected_until_;   // so long he looks for completions before he sleeps
    std::atomic<std::uint64_t> news_{0}; // of completions, and of the end
};

} // namespace pageferry::tcp
