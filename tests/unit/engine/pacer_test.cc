#include "engine/pacer.h"

#include <gtest/gtest.h>

namespace pageferry::engine {
namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t mebibyte = 1 << 20;
const Pacer::Clock::time_point start{std::chrono::hours{1}};

TEST(Pacer, LetsEverythingGoWithoutALimit) {
    Pacer pacer;
    EXPECT_EQ(pacer.allow(100 * mebibyte, 0, start), 100 * mebibyte);
    EXPECT_EQ(pacer.wait(0).count(), 0);
}

TEST(Pacer, HoldsTheMeanRate) {
    Pacer pacer;
    const std::uint64_t rate = 10 * mebibyte;
    pacer.allow(mebibyte, rate, start); // the first call fills the bucket
    std::uint64_t sent = 0;
    for (auto time = start; time < start + milliseconds{10'000}; time += milliseconds{1}) {
        sent += pacer.allow(mebibyte, rate, time);
    }
    EXPECT_NEAR(static_cast<double>(sent), 10.0 * 10 * mebibyte, 0.02 * 10 * 10 * mebibyte);
}

TEST(Pacer, FollowsAChangedRateAtOnce) {
    Pacer pacer;
    pacer.allow(mebibyte, mebibyte, start);
    while (pacer.allow(mebibyte, mebibyte, start) != 0) {
    }
    EXPECT_GT(pacer.wait(mebibyte).count(), 0);
    EXPECT_EQ(pacer.allow(50 * mebibyte, 0, start), 50 * mebibyte);
    EXPECT_EQ(pacer.allow(mebibyte, mebibyte, start), 0U); // and back: nothing was saved up
}

TEST(Pacer, DoesNotSaveUpALongPause) {
    Pacer pacer;
    const std::uint64_t rate = 100 * mebibyte;
    pacer.allow(mebibyte, rate, start);
    EXPECT_LE(pacer.allow(1000 * mebibyte, rate, start + std::chrono::hours{1}), 10 * mebibyte);
}

TEST(Pacer, WaitIsLongEnoughForTheNextExtent) {
    Pacer pacer;
    const std::uint64_t rate = mebibyte;
    auto now = start;
    while (pacer.allow(mebibyte, rate, now) != 0) {
    }
    now += pacer.wait(rate);
    EXPECT_GT(pacer.allow(mebibyte, rate, now), 0U);
}

TEST(Pacer, TakesBackWhatWasNotSent) {
    Pacer pacer;
    const std::uint64_t rate = 100 * mebibyte;
    const std::uint64_t allowed = pacer.allow(mebibyte, rate, start);
    ASSERT_GT(allowed, 0U);
    while (pacer.allow(mebibyte, rate, start) != 0) {
    }
    pacer.give_back(allowed);
    EXPECT_EQ(pacer.allow(mebibyte, rate, start), allowed);
}

TEST(Pacer, WhatWentBeyondTheAllowanceIsMadeUpFor) {
    Pacer pacer;
    const std::uint64_t rate = mebibyte;
    const std::uint64_t allowed = pacer.allow(64 << 10, rate, start);
    ASSERT_GT(allowed, 0U);
    pacer.owe(2 * mebibyte - allowed); // a page that is larger
    EXPECT_GT(pacer.wait(rate).count(), 0);
    EXPECT_EQ(pacer.allow(64 << 10, rate, start + std::chrono::milliseconds{1500}), 0U);
    EXPECT_GT(pacer.allow(64 << 10, rate, start + std::chrono::milliseconds{2500}), 0U);
    pacer.owe(2 * mebibyte);
    EXPECT_EQ(pacer.allow(mebibyte, 0, start), mebibyte) << "without a limit nothing is owed";
}

} // namespace
} // namespace pageferry::engine
