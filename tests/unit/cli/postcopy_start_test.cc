#include "cli/postcopy_start.h"

#include <gtest/gtest.h>

namespace pageferry::cli {
namespace {

using std::chrono::milliseconds;
using When = PostcopyStart::When;

TEST(PostcopyOption, IsNowSecondsOrAuto) {
    EXPECT_EQ(parse_postcopy_start("").value(), PostcopyStart{});
    EXPECT_EQ(parse_postcopy_start("now").value(), PostcopyStart{});
    EXPECT_EQ(parse_postcopy_start("auto").value(), (PostcopyStart{.when = When::automatic}));
    EXPECT_EQ(parse_postcopy_start("10").value(), (PostcopyStart{.when = When::after, .after = milliseconds{10'000}}));
    EXPECT_EQ(parse_postcopy_start("0.25").value(), (PostcopyStart{.when = When::after, .after = milliseconds{250}}));
    for (const char* text : {"soon", "-1", "1s", "1e3", "nan", "inf", " 1", "1000000001"}) {
        EXPECT_FALSE(parse_postcopy_start(text)) << text;
    }
}

TEST(Rounds, AreCountedWhenTheyShrinkNoMore) {
    RoundWatch rounds;
    rounds.see(0, 0);
    rounds.see(1, 1000);
    rounds.see(1, 400);
    rounds.see(2, 500);
    rounds.see(3, 500); // the second round ends: it had shrunk
    EXPECT_EQ(rounds.not_shrunk(), 0U);
    rounds.see(4, 600); // the third had not
    EXPECT_EQ(rounds.not_shrunk(), 1U);
    rounds.see(5, 700);
    EXPECT_EQ(rounds.not_shrunk(), 2U);
    EXPECT_FALSE(rounds.hopeless());
    rounds.see(6, 10);
    EXPECT_TRUE(rounds.hopeless());
}

TEST(Rounds, CountWhatTheyBeganWith) {
    RoundWatch rounds;
    for (std::uint64_t round = 1; round < 10; ++round) {
        rounds.see(round, 100'000 >> round); // each begins with less
        rounds.see(round, 1);
    }
    EXPECT_EQ(rounds.not_shrunk(), 0U);
}

TEST(Rounds, ThatShrinkItHardlyAreInVain) {
    RoundWatch rounds;
    for (std::uint64_t round = 1; round < 6; ++round) {
        rounds.see(round, 1000 - 10 * round);
    }
    EXPECT_TRUE(rounds.hopeless());
}

TEST(Rounds, OfAGuestThatWritesNothingAreNoReason) {
    RoundWatch rounds;
    for (std::uint64_t round = 1; round < 20; ++round) {
        rounds.see(round, 0);
    }
    EXPECT_FALSE(rounds.hopeless());
}

TEST(Rounds, StartAfreshWithAnotherMigration) {
    RoundWatch rounds;
    for (std::uint64_t round = 1; round < 6; ++round) {
        rounds.see(round, 1000);
    }
    EXPECT_TRUE(rounds.hopeless());
    rounds.see(1, 1000);
    EXPECT_FALSE(rounds.hopeless());
}

} // namespace
} // namespace pageferry::cli
