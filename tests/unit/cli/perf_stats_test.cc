#include "perf/stats.h"

#include <gtest/gtest.h>

#include <array>

namespace pageferry::perf {
namespace {

TEST(Spreads, AreMedianAndExtremes) {
    const std::array odd{3.0, 1.0, 2.0};
    EXPECT_EQ(spread_of(odd).median, 2.0);
    EXPECT_EQ(spread_of(odd).min, 1.0);
    EXPECT_EQ(spread_of(odd).max, 3.0);
    const std::array even{4.0, 1.0, 2.0, 3.0};
    EXPECT_EQ(spread_of(even).median, 2.5);
    const std::array one{7.0};
    EXPECT_EQ(spread_of(one).median, 7.0);
    EXPECT_EQ(spread_of({}).max, 0.0);
}

} // namespace
} // namespace pageferry::perf
