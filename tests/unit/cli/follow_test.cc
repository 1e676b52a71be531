#include "follow_fixture.h"

namespace pageferry::cli {
namespace {

using monitor::QmpClient;
using nlohmann::json;
using std::chrono::milliseconds;

TEST(Follow, TellsEveryStateOnceAndInOrder) {
    Recorder recorder;
    int asked = 0;
    const auto outcome = follow_fake(recorder, {}, [&](Peer& peer, const std::string& /*command*/) -> json {
        switch (++asked) {
        case 1: return figures("setup");
        case 2:
            peer.status("setup");
            peer.status("active");
            return figures("active");
        case 3: return figures("device"); // ahead of its event
        case 4:
            peer.event("STOP", nullptr);
            peer.status("device");
            peer.status("completed");
            return figures("completed");
        default:
            return {{"status", "completed"},
                    {"total-time", 77},
                    {"downtime", 5},
                    {"ram", {{"total", 1000}, {"transferred", 900}, {"remaining", 0}}}};
        }
    });
    ASSERT_TRUE(outcome) << outcome.error().to_string();
    EXPECT_EQ(outcome->code, exit_ok);
    EXPECT_EQ(recorder.states, (std::vector<std::string>{"setup", "active", "STOP", "device", "completed"}));
    EXPECT_EQ(outcome->summary.last.total_time, milliseconds{77}) << "the last figures, not those of the way";
    EXPECT_EQ(outcome->summary.last.downtime, milliseconds{5});
    EXPECT_FALSE(recorder.seen.empty());
}

TEST(Follow, GetsAlongWithoutEvents) {
    Recorder recorder;
    int asked = 0;
    const auto outcome = follow_fake(recorder, {.events = false}, [&](Peer&, const std::string&) {
        return figures(++asked < 3 ? "setup" : asked < 5 ? "active" : "completed");
    });
    ASSERT_TRUE(outcome);
    EXPECT_EQ(recorder.states, (std::vector<std::string>{"setup", "active", "completed"}));
}

TEST(Follow, WaitsForTheReasonOfAFailure) {
    Recorder recorder;
    int asked = 0;
    const auto outcome = follow_fake(recorder, {}, [&](Peer& peer, const std::string&) -> json {
        if (++asked == 1) {
            peer.status("setup");
            peer.status("failed");
            return figures("failed");
        }
        return asked < 4 ? json{{"status", "failed"}} : json{{"status", "failed"}, {"error-desc", "Connection refused"}};
    });
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->code, exit_failed);
    EXPECT_EQ(outcome->summary.last.error, "Connection refused");
}

TEST(Follow, EndsWhenPostcopyIsPaused) {
    Recorder recorder;
    const auto outcome = follow_fake(recorder, {}, [](Peer&, const std::string&) { return json{{"status", "postcopy-paused"}}; });
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->code, exit_paused);
}

TEST(Follow, SaysWhenTheMonitorGoesAway) {
    Recorder recorder;
    auto signals = Signals::take();
    ASSERT_TRUE(signals);
    const FakeMonitor fake{[](Peer& peer) {
        peer.greet();
        peer.answer(peer.hear(), figures("active"));
    }};
    auto client = QmpClient::connect(fake.address(), soon());
    ASSERT_TRUE(client);
    const auto outcome = follow(*client, *signals, recorder, {});
    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().code, ErrorCode::closed);
}

TEST(Follow, CancelsOnTheFirstInterrupt) {
    Recorder recorder;
    bool cancelled = false;
    recorder.on_progress = [sent = false]() mutable {
        if (!std::exchange(sent, true)) {
            ::kill(::getpid(), SIGINT);
        }
    };
    const auto outcome = follow_fake(recorder, {}, [&](Peer& peer, const std::string& command) {
        if (command == "migrate_cancel") {
            cancelled = true;
            peer.status("cancelling");
            peer.status("cancelled");
        }
        return cancelled ? json{{"status", "cancelled"}} : figures("active");
    });
    ASSERT_TRUE(outcome) << outcome.error().to_string();
    EXPECT_EQ(outcome->code, exit_cancelled);
    EXPECT_EQ(recorder.states, (std::vector<std::string>{"active", "cancelling", "cancelled"}));
    EXPECT_EQ(recorder.notes.size(), 1U);
}

TEST(Follow, LeavesOnTheSecondInterrupt) {
    Recorder recorder;
    recorder.on_progress = [] { ::kill(::getpid(), SIGINT); };
    const auto outcome = follow_fake(recorder, {}, [](Peer&, const std::string&) { return figures("active"); }); // never ends
    ASSERT_TRUE(outcome) << outcome.error().to_string();
    EXPECT_EQ(outcome->code, exit_left);
}

TEST(Follow, AWatcherOnlyLeaves) {
    Recorder recorder;
    bool cancelled = false;
    recorder.on_progress = [] { ::kill(::getpid(), SIGTERM); };
    const auto outcome = follow_fake(recorder, {.cancel_on_interrupt = false}, [&](Peer&, const std::string& command) {
        cancelled = cancelled || command == "migrate_cancel";
        return figures("active");
    });
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->code, exit_left);
    EXPECT_FALSE(cancelled);
}

TEST(Follow, AWatcherWaitsForTheNextMigration) {
    Recorder recorder;
    int asked = 0;
    const auto outcome = follow_fake(recorder, {.events = false, .wait_for_start = true}, [&](Peer&, const std::string&) -> json {
        ++asked;
        return asked < 4 ? json{{"status", "failed"}, {"error-desc", "the one before"}}
                         : figures(asked < 5 ? "active" : "completed");
    });
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->code, exit_ok);
    EXPECT_TRUE(outcome->started);
}

TEST(Follow, CancelsWhenTheTimeIsUp) {
    Recorder recorder;
    bool cancelled = false;
    const auto outcome = follow_fake(recorder, {.timeout = milliseconds{60}}, [&](Peer&, const std::string& command) {
        cancelled = cancelled || command == "migrate_cancel";
        return cancelled ? json{{"status", "cancelled"}} : figures("active");
    });
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->code, exit_timeout);
    EXPECT_TRUE(outcome->summary.timed_out);
}

TEST(Follow, GoesOnWhenTheMonitorRefusesToCancel) {
    Recorder recorder;
    bool refused = false;
    int asked = 0;
    recorder.on_progress = [sent = false]() mutable {
        if (!std::exchange(sent, true)) {
            ::kill(::getpid(), SIGINT);
        }
    };
    const auto outcome = follow_fake(recorder, {}, [&](Peer&, const std::string& command) -> json {
        if (command == "migrate_cancel") {
            refused = true;
            return "Migration cannot be cancelled now";
        }
        return figures(refused && ++asked > 2 ? "completed" : "device");
    });
    ASSERT_TRUE(outcome);
    EXPECT_TRUE(refused);
    EXPECT_EQ(outcome->code, exit_ok);
    EXPECT_EQ(recorder.notes.size(), 2U) << "that it cancels, and that it could not";
}

} // namespace
} // namespace pageferry::cli
