// How much of background pulls may be under way: what the path carries, and some more, for processors are late now and then; a
// fault has to wait behind that, where the path or the processors have no better place for it.
//
// The delay of a pull tells: its least is the path's own, so paths of any length are filled; what it has grown by is the queue.
// A single delay says little on a busy machine, so it goes by rounds, about half a window each, and by the least delay of a
// round: the window doubles until the queue is seen for the first time, and from then on grows by a quarter or shrinks by an
// eighth.
//
// Threads: one.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace pageferry::engine {

class PullWindow {
public:
    using Clock = std::chrono::steady_clock;
    // Bytes. Everything on a busy machine is late by milliseconds now and then: less than the least would always wait for that.
    static constexpr std::uint64_t least = 1 << 20;
    static constexpr std::uint64_t most = 64 << 20;
    static constexpr std::uint64_t spare = 4 << 20; // never more than so much above twice what the path itself holds
    static constexpr std::chrono::milliseconds queue{1};

    [[nodiscard]] std::uint64_t bytes() const { return window_; }
    // So much must be free before it is filled again.
    [[nodiscard]] std::uint64_t refill() const { return std::min<std::uint64_t>(window_ / 4, 2 << 20); }

    // A pull of so many bytes that was asked for at `asked`.
    void arrived(std::uint64_t bytes, Clock::time_point asked, Clock::time_point now) {
        const auto delay = now - asked;
        shortest_ = std::min(shortest_, delay);
        if (asked < round_since_) {
            return; // an earlier window's
        }
        if (round_bytes_ == 0) {
            round_asked_ = asked;
            round_shortest_ = delay;
        }
        round_shortest_ = std::min(round_shortest_, delay);
        round_bytes_ += bytes;
        if (round_bytes_ < window_ / 2) {
            return;
        }
        if (round_shortest_ <= shortest_ + queue) {
            window_ = std::min(window_ + (queue_seen_ ? window_ / 4 : window_), enough(now));
        } else {
            queue_seen_ = true;
            window_ = std::max(window_ - window_ / 8, least);
        }
        round_since_ = now;
        round_bytes_ = 0;
    }

private:
    [[nodiscard]] std::uint64_t enough(Clock::time_point now) const {
        const std::chrono::duration<double> length = std::max<Clock::duration>(now - round_asked_, std::chrono::microseconds{1});
        const double rate = static_cast<double>(round_bytes_) / length.count();
        const double path = rate * std::chrono::duration<double>(shortest_).count();
        return std::min(spare + static_cast<std::uint64_t>(4 * path), most); // a round is half a window: it shows half the rate
    }

    std::uint64_t window_ = least;
    Clock::duration shortest_ = Clock::duration::max() - queue;
    bool queue_seen_ = false;
    Clock::time_point round_since_; // its pulls were asked for later
    Clock::time_point round_asked_; // when its first one was
    Clock::duration round_shortest_{};
    std::uint64_t round_bytes_ = 0;
};

} // namespace pageferry::engine
