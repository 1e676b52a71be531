#include "engine/postcopy/pull_window.h"

#include <gtest/gtest.h>

#include <deque>

namespace pageferry::engine {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr std::uint64_t extent = 128 << 10;
constexpr PullWindow::Clock::time_point no_fault{};

// A path of so many bytes a second and a delay of its own, on which the window is kept full for a while; what it carried a
// second.
double carried(PullWindow& window, double rate, milliseconds delay, milliseconds length, bool faults = false) {
    struct Pull {
        PullWindow::Clock::time_point asked, arrives;
    };
    std::deque<Pull> under_way;
    PullWindow::Clock::time_point now{std::chrono::hours{1}};
    const auto end = now + length;
    auto wire_is_free = now;
    std::uint64_t bytes = 0;
    while (now < end) {
        while ((under_way.size() + 1) * extent <= window.bytes()) {
            wire_is_free = std::max(wire_is_free, now) + microseconds{static_cast<std::int64_t>(extent / rate * 1e6)};
            under_way.push_back({.asked = now, .arrives = wire_is_free + delay});
        }
        now = under_way.front().arrives;
        window.arrived(extent, under_way.front().asked, now, faults ? now : no_fault);
        under_way.pop_front();
        bytes += extent;
    }
    return static_cast<double>(bytes) / std::chrono::duration<double>(length).count();
}

TEST(PullWindow, FillsAPathOfAnyLength) {
    for (const int delay : {0, 1, 10, 40}) {
        PullWindow window;
        const double rate = 200e6;
        EXPECT_GT(carried(window, rate, milliseconds{delay}, milliseconds{3000}), 0.9 * rate) << delay << " ms";
    }
}

TEST(PullWindow, KeepsTheQueueShort) {
    PullWindow window;
    const double rate = 1e9;
    carried(window, rate, milliseconds{1}, milliseconds{3000});
    // What the path holds by itself and the queue it may have, and as much again: a queue is seen when it is a round trip old.
    EXPECT_LT(static_cast<double>(window.bytes()), 2 * rate * 0.005);
}

TEST(PullWindow, KeepsTheQueueShorterBesideFaults) {
    PullWindow window;
    const double rate = 4e9;
    carried(window, rate, milliseconds{1}, milliseconds{3000}, true);
    EXPECT_LT(static_cast<double>(window.bytes()), 2 * rate * 0.002);
    const PullWindow::Clock::time_point later = PullWindow::Clock::time_point{std::chrono::hours{1}} + milliseconds{3000};
    for (int i = 0; i < 1000; ++i) {
        window.arrived(extent, later, later + milliseconds{4}, later - PullWindow::fault_memory);
    }
    EXPECT_EQ(window.bytes(), PullWindow::most) << "when no faults come any more";
}

TEST(PullWindow, ShrinksOnceForOneDelay) {
    PullWindow window;
    const PullWindow::Clock::time_point start{std::chrono::hours{1}};
    for (int i = 0; i < 1000; ++i) {
        window.arrived(extent, start, start + milliseconds{1}, no_fault);
    }
    const auto grown = window.bytes();
    EXPECT_EQ(grown, PullWindow::most);
    window.arrived(extent, start, start + milliseconds{50}, no_fault);
    window.arrived(extent, start, start + milliseconds{51}, no_fault); // had been asked for before
    EXPECT_EQ(window.bytes(), grown - grown / 8);
}

TEST(PullWindow, NeverFallsBelowItsLeast) {
    PullWindow window;
    PullWindow::Clock::time_point now{std::chrono::hours{1}};
    window.arrived(extent, now, now, no_fault);
    for (int i = 0; i < 1000; ++i, now += milliseconds{100}) {
        window.arrived(extent, now, now + milliseconds{99}, no_fault);
    }
    EXPECT_EQ(window.bytes(), PullWindow::least);
}

} // namespace
} // namespace pageferry::engine
