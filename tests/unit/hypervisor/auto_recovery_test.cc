// Automatic recovery on a real event loop: which attempts come, and what is said; never when.
#include "hypervisor/monitor_process/auto_recovery.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

namespace pageferry::hypervisor {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Strings = std::vector<std::string>;

constexpr milliseconds soon{1};
constexpr std::chrono::hours never{1};

class AutoRecoveryTest : public testing::Test {
protected:
    // Runs the loop until nothing is left to come.
    void run() {
        io.restart();
        io.run();
    }
    bool run_until(const std::function<bool()>& condition) {
        io.restart();
        const auto end = std::chrono::steady_clock::now() + seconds{60};
        while (!condition() && std::chrono::steady_clock::now() < end) {
            io.run_one_for(seconds{1});
        }
        return condition();
    }
    [[nodiscard]] std::size_t attempts() const {
        return static_cast<std::size_t>(std::ranges::count_if(said, [](const auto& text) { return text == "attempt"; }));
    }
    [[nodiscard]] Strings gave_up() const {
        Strings texts;
        std::ranges::copy_if(said, std::back_inserter(texts), [](const auto& text) { return text.contains("gives up"); });
        return texts;
    }

    boost::asio::io_context io;
    Strings said;                     // attempts and logs, in their order
    std::function<void()> at_attempt; // what the owner makes of one; default: it fails at once
    AutoRecovery recovery{io,
                          {.attempt =
                               [this] {
                                   said.emplace_back("attempt");
                                   if (at_attempt) {
                                       at_attempt();
                                   } else {
                                       recovery.attempt_failed();
                                   }
                               },
                           .log = [this](const std::string& text) { said.push_back(text); }}};
};

TEST_F(AutoRecoveryTest, IsOffByDefault) {
    recovery.paused(false);
    run();
    recovery.attempt_failed(); // one by hand
    run();
    EXPECT_EQ(said, Strings{});
    EXPECT_FALSE(recovery.waiting());
}

TEST_F(AutoRecoveryTest, TriesAsOftenAsItMayAndSaysOnceThatItGivesUp) {
    recovery.set({.attempts = 3, .backoff = soon});
    recovery.paused(false);
    EXPECT_TRUE(recovery.waiting());
    EXPECT_EQ(said, Strings{}) << "the first one waits too";
    run();
    EXPECT_EQ(said, (Strings{"automatic recovery: attempt 1 of 3 begins", "attempt", "automatic recovery: attempt 2 of 3 begins",
                             "attempt", "automatic recovery: attempt 3 of 3 begins", "attempt",
                             "automatic recovery gives up: 3 failed attempts; the migration stays postcopy-paused: repair the "
                             "connection, then give migrate with resume=true (pageferry recover)"}));
    EXPECT_FALSE(recovery.waiting());
    recovery.attempt_by_user();
    recovery.attempt_failed();
    run();
    EXPECT_EQ(attempts(), 3U);
    EXPECT_EQ(gave_up().size(), 1U) << "told once";
}

TEST_F(AutoRecoveryTest, APauseThatAUserAskedForStays) {
    recovery.set({.attempts = 3, .backoff = soon});
    recovery.paused(true);
    run();
    recovery.attempt_by_user();
    recovery.attempt_failed();
    recovery.set({.attempts = 5, .backoff = soon});
    run();
    EXPECT_EQ(said, Strings{});
}

TEST_F(AutoRecoveryTest, AUserWhoGivesUpAnAttemptEndsAllOfThem) {
    recovery.set({.attempts = 3, .backoff = soon});
    at_attempt = [] {};
    recovery.paused(false);
    ASSERT_TRUE(run_until([&] { return attempts() == 1; }));
    recovery.paused(true); // migrate-pause in postcopy-recover-setup
    recovery.attempt_failed();
    run();
    EXPECT_EQ(attempts(), 1U);
    EXPECT_TRUE(gave_up().empty());
}

TEST_F(AutoRecoveryTest, EachLossOfTheConnectionCountsAnew) {
    recovery.set({.attempts = 2, .backoff = soon});
    at_attempt = [&] {
        if (attempts() % 2 == 1) {
            recovery.attempt_failed();
        } else {
            recovery.recovered();
        }
    };
    for (std::size_t loss = 1; loss <= 3; ++loss) {
        recovery.paused(false);
        run();
        EXPECT_EQ(attempts(), 2 * loss);
        EXPECT_EQ(recovery.attempts_made(), 2U);
    }
    EXPECT_TRUE(gave_up().empty());
}

TEST_F(AutoRecoveryTest, NothingComesWhileAnAttemptIsUnderWay) {
    recovery.set({.attempts = 2, .backoff = soon});
    at_attempt = [] {};
    recovery.paused(false);
    run();
    EXPECT_EQ(attempts(), 1U);
    recovery.attempt_failed();
    run();
    EXPECT_EQ(attempts(), 2U);
    recovery.recovered();
    run();
    EXPECT_TRUE(gave_up().empty());
}

TEST_F(AutoRecoveryTest, AUsersOwnAttemptTakesTheTurnAndIsNotCounted) {
    recovery.set({.attempts = 1, .backoff = soon});
    recovery.paused(false);
    recovery.attempt_by_user();
    EXPECT_FALSE(recovery.waiting());
    run();
    EXPECT_EQ(attempts(), 0U);
    recovery.attempt_failed();
    run();
    EXPECT_EQ(attempts(), 1U);
    EXPECT_EQ(gave_up().size(), 1U);
}

TEST_F(AutoRecoveryTest, StopAndRecoveredEndTheWait) {
    recovery.set({.attempts = 5, .backoff = soon});
    recovery.paused(false);
    recovery.stop();
    run();
    recovery.paused(false);
    recovery.recovered();
    run();
    recovery.attempt_failed(); // a word that comes late
    run();
    EXPECT_EQ(said, Strings{});
}

TEST_F(AutoRecoveryTest, ATimerThatHasRunOutDoesNothingOnceItIsStopped) {
    recovery.set({.attempts = 5, .backoff = soon});
    recovery.paused(false);
    boost::asio::steady_timer earlier{io, std::chrono::steady_clock::time_point::min()};
    earlier.async_wait([&](const boost::system::error_code&) { recovery.stop(); });
    const auto due = std::chrono::steady_clock::now() + 2 * soon;
    while (std::chrono::steady_clock::now() < due) {
    }
    run(); // both have run out, and are called in one go
    EXPECT_EQ(attempts(), 0U);
    EXPECT_TRUE(gave_up().empty());
}

TEST_F(AutoRecoveryTest, ItMayEndBeforeItsTimer) {
    int made = 0;
    auto other = std::make_unique<AutoRecovery>(io, AutoRecovery::Callbacks{.attempt = [&] { ++made; }, .log = {}});
    other->set({.attempts = 1, .backoff = soon});
    other->paused(false);
    other.reset();
    run();
    EXPECT_EQ(made, 0);
}

TEST_F(AutoRecoveryTest, SwitchedOnWhilePausedItBegins) {
    recovery.paused(false);
    run();
    recovery.set({.attempts = 2, .backoff = soon});
    run();
    EXPECT_EQ(attempts(), 2U);
}

TEST_F(AutoRecoveryTest, SwitchedOffWhilePausedItEndsWithoutAWord) {
    recovery.set({.attempts = 2, .backoff = never});
    recovery.paused(false);
    recovery.set({.attempts = 0});
    run();
    EXPECT_EQ(said, Strings{});
    at_attempt = [&] {
        recovery.set({.attempts = 0});
        recovery.attempt_failed();
    };
    recovery.set({.attempts = 2, .backoff = soon});
    run();
    EXPECT_EQ(attempts(), 1U);
    EXPECT_TRUE(gave_up().empty());
}

TEST_F(AutoRecoveryTest, AShorterWaitTakesEffectAtOnce) {
    recovery.set({.attempts = 1, .backoff = never});
    recovery.paused(false);
    recovery.set({.attempts = 1, .backoff = soon});
    run();
    EXPECT_EQ(attempts(), 1U);
}

TEST_F(AutoRecoveryTest, MoreAttemptsAreMadeWhereItHadGivenUp) {
    recovery.set({.attempts = 1, .backoff = soon});
    recovery.paused(false);
    run();
    recovery.set({.attempts = 1, .backoff = milliseconds{2}});
    run();
    EXPECT_EQ(gave_up().size(), 1U);
    recovery.set({.attempts = 3, .backoff = soon});
    run();
    EXPECT_EQ(attempts(), 3U) << "those made before count";
    EXPECT_EQ(gave_up().size(), 2U);
}

TEST_F(AutoRecoveryTest, FewerThanWereMadeIsTheEnd) {
    at_attempt = [&] {
        recovery.attempt_failed();
        recovery.set({.attempts = 1, .backoff = never});
    };
    recovery.set({.attempts = 5, .backoff = soon});
    recovery.paused(false);
    run();
    EXPECT_EQ(attempts(), 1U);
    EXPECT_EQ(gave_up().size(), 1U);
}

TEST_F(AutoRecoveryTest, TheTimeLimitHasALastAttemptAtItsEnd) {
    recovery.set({.attempts = 1000, .backoff = never, .time_limit = milliseconds{20}});
    recovery.paused(false);
    run();
    EXPECT_EQ(attempts(), 1U);
    ASSERT_EQ(gave_up().size(), 1U);
    EXPECT_TRUE(gave_up()[0].contains("gives up: 1 failed attempt in the time limit of 20 ms;")) << gave_up()[0];
    recovery.set({.attempts = 1000, .backoff = never, .time_limit = milliseconds{0}});
    EXPECT_TRUE(recovery.waiting()) << "no limit any more";
    recovery.stop();
    run();
}

TEST(AutoRecoveryBackoff, DoublesUpToHalfAMinute) {
    const auto before = [](int first, unsigned made) { return AutoRecovery::backoff_before(milliseconds{first}, made).count(); };
    EXPECT_EQ(before(1000, 0), 1000);
    EXPECT_EQ(before(1000, 1), 2000);
    EXPECT_EQ(before(1000, 4), 16'000);
    EXPECT_EQ(before(1000, 5), 30'000);
    EXPECT_EQ(before(1000, 999), 30'000);
    EXPECT_EQ(before(10, 999), 30'000);
    EXPECT_EQ(before(600'000, 0), 600'000) << "a longer first one stays";
    EXPECT_EQ(before(600'000, 7), 600'000);
}

} // namespace
} // namespace pageferry::hypervisor
