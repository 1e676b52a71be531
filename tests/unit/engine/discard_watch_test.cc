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

// A page is written after its discard; who sees the write must hear of the discard.
TEST(DiscardWatch, WhatIsSeenWrittenWasCountedBefore) {
    DiscardCounters counters;
    std::atomic<unsigned> written{0}; // a page: the number of its last discard
    std::atomic<bool> stop{false};
    std::thread guest{[&] {
        for (unsigned number = 1; !stop; ++number) {
            ++counters.begun;
            written.store(number, std::memory_order_release); // by a vCPU, before the whole range is through
            ++counters.ended;
        }
    }};
    DiscardWatch watch{counters};
    unsigned seen = written;
    for (int i = 0; i < 100'000; ++i) {
        const unsigned now = written.load(std::memory_order_acquire);
        const bool told = watch.anything();
        if (now != seen && !told) {
            ADD_FAILURE() << "discard " << now << " was missed";
            break;
        }
        seen = now;
    }
    stop = true;
    guest.join();
}

} // namespace
} // namespace pageferry::engine
