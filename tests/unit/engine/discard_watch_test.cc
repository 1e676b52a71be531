#include "engine/discard_watch.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace pageferry::engine {
namespace {

TEST(DiscardWatch, TellsOfADiscardOnce) {
    DiscardCounters counters;
    counters.begun = counters.ended = 41; // of earlier migrations
    DiscardWatch watch{counters};
    EXPECT_FALSE(watch.anything());
    ++counters.begun;
    ++counters.ended;
    EXPECT_TRUE(watch.anything());
    EXPECT_FALSE(watch.anything());
}

TEST(DiscardWatch, OneUnderWayIsTellingUntilItsEndWasSeen) {
    DiscardCounters counters;
    ++counters.begun;
    DiscardWatch watch{counters}; // begun before
    EXPECT_TRUE(watch.anything());
    EXPECT_TRUE(watch.anything());
    ++counters.ended;
    EXPECT_TRUE(watch.anything()) << "it may have gone on after the last look";
    EXPECT_FALSE(watch.anything());
}

TEST(DiscardWatch, OneThatEndsIsNotTakenForAnother) {
    DiscardCounters counters;
    counters.begun = 2;
    counters.ended = 1;
    DiscardWatch watch{counters};
    ++counters.begun;
    ++counters.ended; // as many under way as before
    EXPECT_TRUE(watch.anything());
}

// A guest writes into a page after its discard, a source pins it anew when it is told: whatever it then sees written is in the
// page that it has pinned, or in a later one.
TEST(DiscardWatch, WhatIsSeenWrittenIsInThePageThatWasPinned) {
    DiscardCounters counters;
    std::atomic<unsigned> present{0}; // the page that is there: the number of the discard that made room for it
    std::atomic<unsigned> written{0}; // the last page that was written
    std::atomic<bool> stop{false};
    std::thread guest{[&] {
        for (unsigned number = 1; !stop; ++number) {
            ++counters.begun;
            present = number;
            written = number; // by a vCPU, before the whole range is through
            ++counters.ended;
        }
    }};
    DiscardWatch watch{counters};
    unsigned pinned = present;
    for (int looks = 0; looks < 100'000 || written < 1000; ++looks) {
        const unsigned seen = written;
        if (watch.anything()) {
            pinned = present;
        }
        if (pinned < seen) {
            ADD_FAILURE() << "page " << seen << " was written, " << pinned << " is pinned";
            break;
        }
    }
    stop = true;
    guest.join();
}

} // namespace
} // namespace pageferry::engine
