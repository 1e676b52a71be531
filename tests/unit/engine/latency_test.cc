#include "engine/postcopy/latency.h"

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <vector>

namespace pageferry::engine {
namespace {

TEST(Latency, NothingFromNothing) {
    EXPECT_FALSE(percentile({}, 50));
    EXPECT_FALSE(percentile(std::vector<std::uint64_t>(24), 99));
}

TEST(Latency, EvenlySpreadWithinABucket) {
    const std::array<std::uint64_t, 5> buckets{0, 0, 0, 100, 0}; // 8 to 16
    EXPECT_DOUBLE_EQ(percentile(buckets, 50).value(), 12);
    EXPECT_DOUBLE_EQ(percentile(buckets, 100).value(), 16);
    EXPECT_DOUBLE_EQ(percentile(buckets, 0).value(), 8.08); // the first of them
    EXPECT_DOUBLE_EQ(percentile(buckets, 25).value(), 10);
}

TEST(Latency, FindsTheBucketOfTheRank) {
    const std::array<std::uint64_t, 4> buckets{50, 0, 40, 10};
    EXPECT_DOUBLE_EQ(percentile(buckets, 25).value(), 1); // the first bucket begins at 0
    EXPECT_DOUBLE_EQ(percentile(buckets, 50).value(), 2);
    EXPECT_DOUBLE_EQ(percentile(buckets, 70).value(), 6);
    EXPECT_DOUBLE_EQ(percentile(buckets, 90).value(), 8);
    EXPECT_DOUBLE_EQ(percentile(buckets, 95).value(), 12);
    EXPECT_DOUBLE_EQ(percentile(buckets, 100).value(), 16);
    EXPECT_DOUBLE_EQ(percentile(buckets, 1000).value(), 16);
    EXPECT_DOUBLE_EQ(percentile(buckets, -3).value(), 0.04);
}

TEST(Latency, OneAloneIsAtTheUpperEnd) {
    const std::array<std::uint64_t, 3> buckets{0, 1, 0};
    for (const double percent : {0.0, 1.0, 50.0, 99.0, 100.0}) {
        EXPECT_DOUBLE_EQ(percentile(buckets, percent).value(), 4);
    }
}

TEST(Latency, NeverFallsAsThePercentRises) {
    std::array<std::uint64_t, 24> buckets{};
    for (std::size_t n = 0; n < buckets.size(); ++n) {
        buckets.at(n) = n * 7919 % 13;
    }
    buckets[5] = std::numeric_limits<std::uint64_t>::max() / 2; // more than a double tells apart
    double before = 0;
    for (double percent = 0; percent <= 100; percent += 0.125) {
        const double now = percentile(buckets, percent).value();
        EXPECT_GE(now, before) << percent;
        EXPECT_LE(now, 1U << 24U);
        before = now;
    }
}

} // namespace
} // namespace pageferry::engine
