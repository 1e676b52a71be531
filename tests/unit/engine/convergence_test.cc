#include "engine/convergence.h"

#include <gtest/gtest.h>

namespace pageferry::engine {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t mebibyte = 1 << 20;

TEST(Convergence, IsReachedWhenTheRestFitsTheLimit) {
    Convergence convergence;
    convergence.pushed(100 * mebibyte, seconds{1});
    EXPECT_EQ(convergence.bandwidth(), 100 * mebibyte);
    EXPECT_TRUE(convergence.converged(30 * mebibyte, 0, milliseconds{300}));
    EXPECT_FALSE(convergence.converged(31 * mebibyte, 0, milliseconds{300}));
}

TEST(Convergence, NothingLeftIsAlwaysEnough) {
    const Convergence convergence;
    EXPECT_TRUE(convergence.converged(0, 0, milliseconds{0}));
    EXPECT_FALSE(convergence.converged(4096, 0, milliseconds{2'000'000})) << "nothing was measured yet";
}

TEST(Convergence, AFixedBandwidthOverridesTheMeasuredOne) {
    Convergence convergence;
    convergence.pushed(100 * mebibyte, seconds{1});
    EXPECT_EQ(convergence.expected_downtime(10 * mebibyte, 10 * mebibyte), milliseconds{1000});
    EXPECT_FALSE(convergence.converged(30 * mebibyte, 10 * mebibyte, milliseconds{300}));
}

TEST(Convergence, ASlowerLinkIsSeenWithinAFewRounds) {
    Convergence convergence;
    convergence.pushed(1000 * mebibyte, seconds{1});
    for (int round = 0; round < 8; ++round) {
        convergence.pushed(10 * mebibyte, seconds{1});
    }
    EXPECT_LT(convergence.bandwidth(), 15 * mebibyte);
}

TEST(Convergence, AHandfulOfPagesTellsNothing) {
    Convergence convergence;
    convergence.pushed(100 * mebibyte, seconds{1});
    convergence.pushed(4096, seconds{1});
    EXPECT_EQ(convergence.bandwidth(), 100 * mebibyte);
}

} // namespace
} // namespace pageferry::engine
