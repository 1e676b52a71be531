#include "follow_fixture.h"

namespace pageferry::cli {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using Commands = std::vector<std::string>;

// A source in postcopy-paused, and why.
json paused(const std::string& error = "the connection broke") {
    json answer = figures("postcopy-paused");
    answer["error-desc"] = error;
    return answer;
}

json recovery_parameters(unsigned attempts, unsigned backoff = 0, unsigned time_limit = 0) {
    return {{"x-pageferry-recover-attempts", attempts},
            {"x-pageferry-recover-backoff", backoff},
            {"x-pageferry-recover-time-limit", time_limit}};
}

bool any_contains(const std::vector<std::string>& texts, const std::string& part) {
    return std::ranges::any_of(texts, [&](const std::string& text) { return text.contains(part); });
}

TEST(FollowPostcopy, StartsItAtOnceWhenActive) {
    Recorder recorder;
    Commands commands;
    const auto outcome =
        follow_fake(recorder, {.postcopy = PostcopyStart{}}, [&](Peer& peer, const std::string& command) -> json {
            commands.push_back(command);
            if (command == "migrate-start-postcopy") {
                for (const char* status : {"device", "postcopy-device", "postcopy-active", "completed"}) {
                    peer.status(status);
                }
                return json::object();
            }
            if (commands.size() == 1) {
                peer.status("setup");
                return figures("setup");
            }
            if (commands.size() == 2) {
                peer.status("active");
                return figures("active");
            }
            return figures("completed");
        });
    ASSERT_TRUE(outcome) << outcome.error().to_string();
    EXPECT_EQ(outcome->code, exit_ok);
    ASSERT_GE(commands.size(), 3U);
    EXPECT_EQ(commands[2], "migrate-start-postcopy") << "and no figures in between";
    EXPECT_EQ(std::ranges::count(commands, "migrate-start-postcopy"), 1);
    EXPECT_EQ(recorder.states,
              (std::vector<std::string>{"setup", "active", "device", "postcopy-device", "postcopy-active", "completed"}));
    ASSERT_EQ(outcome->summary.history.size(), 6U);
    EXPECT_EQ(outcome->summary.history.back().status, "completed");
    EXPECT_FALSE(outcome->summary.history.back().lasted);
}

TEST(FollowPostcopy, StartsItAfterSomeTimeOfPrecopy) {
    Recorder recorder;
    bool started = false;
    std::optional<std::chrono::steady_clock::time_point> active;
    milliseconds waited{0};
    constexpr milliseconds wanted{150};
    const auto outcome =
        follow_fake(recorder, {.postcopy = PostcopyStart{.when = PostcopyStart::When::after, .after = wanted}},
                    [&](Peer& peer, const std::string& command) -> json {
                        if (command == "migrate-start-postcopy") {
                            started = true;
                            waited = std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - *active);
                            peer.status("completed");
                            return json::object();
                        }
                        if (!active) {
                            active = std::chrono::steady_clock::now();
                            peer.status("active");
                        }
                        return figures(started ? "completed" : "active");
                    });
    ASSERT_TRUE(outcome) << outcome.error().to_string();
    EXPECT_TRUE(started);
    EXPECT_GE(waited, wanted);
}

// Rounds of a precopy with these bytes at their beginnings; how many were begun until postcopy was asked for.
std::size_t rounds_until_postcopy(const std::vector<std::uint64_t>& beginnings, bool& started) {
    Recorder recorder;
    std::size_t round = 0;
    const auto outcome = follow_fake(recorder, {.postcopy = PostcopyStart{.when = PostcopyStart::When::automatic}},
                                     [&](Peer& peer, const std::string& command) -> json {
                                         if (command == "migrate-start-postcopy") {
                                             started = true;
                                             peer.status("completed");
                                             return json::object();
                                         }
                                         if (round == beginnings.size() || started) {
                                             peer.status("completed");
                                             return figures("completed");
                                         }
                                         if (round == 0) {
                                             peer.status("active");
                                         }
                                         json answer = figures("active");
                                         answer["ram"]["remaining"] = beginnings[round++];
                                         answer["ram"]["dirty-sync-count"] = round;
                                         peer.event("MIGRATION_PASS", {{"pass", round + 1}}); // looked at without delay
                                         return answer;
                                     });
    EXPECT_TRUE(outcome);
    return round;
}

TEST(FollowPostcopy, StartsItWhenPrecopyDoesNotConverge) {
    bool started = false;
    // The 3rd, 4th and 6th round shrink no more; the 6th has ended when the 7th begins.
    EXPECT_EQ(rounds_until_postcopy({1000, 500, 500, 600, 550, 560, 10, 10, 10, 10}, started), 7U);
    EXPECT_TRUE(started);
    started = false;
    EXPECT_EQ(rounds_until_postcopy({1000, 500, 250, 120, 60, 30, 15, 8, 4}, started), 9U);
    EXPECT_FALSE(started) << "it converges";
}

TEST(FollowPostcopy, GoesOnWithPrecopyWhenTheMonitorRefuses) {
    Recorder recorder;
    int asked = 0;
    const auto outcome = follow_fake(recorder, {.postcopy = PostcopyStart{}}, [&](Peer&, const std::string& command) -> json {
        if (command == "migrate-start-postcopy") {
            return "Enable postcopy with migrate_set_capability before the start of migration";
        }
        return figures(++asked < 4 ? "active" : "completed");
    });
    ASSERT_TRUE(outcome) << outcome.error().to_string();
    EXPECT_EQ(outcome->code, exit_ok);
    EXPECT_TRUE(outcome->postcopy_refused.starts_with("Enable postcopy"));
}

TEST(FollowPostcopy, EndsInAPauseAndSaysWhatHappened) {
    Recorder recorder;
    const auto outcome = follow_fake(recorder, {}, [first = true](Peer& peer, const std::string& command) mutable -> json {
        if (command == "query-migrate-parameters") {
            return recovery_parameters(0);
        }
        if (std::exchange(first, false)) {
            peer.status("postcopy-active");
            peer.status("postcopy-paused");
            return figures("postcopy-active");
        }
        return paused();
    });
    ASSERT_TRUE(outcome) << outcome.error().to_string();
    EXPECT_EQ(outcome->code, exit_paused);
    EXPECT_EQ(outcome->summary.last.error, "the connection broke");
    EXPECT_EQ(recorder.states, (std::vector<std::string>{"postcopy-active", "postcopy-paused"}));
}

TEST(FollowPostcopy, StaysWhereTheMonitorRecoversByItself) {
    Recorder recorder;
    int asked = 0;
    const auto outcome = follow_fake(recorder, {}, [&](Peer& peer, const std::string& command) -> json {
        if (command == "query-migrate-parameters") {
            return recovery_parameters(5);
        }
        switch (++asked) {
        case 1:
            peer.status("postcopy-active");
            peer.status("postcopy-paused");
            return figures("postcopy-active");
        case 3: // an attempt that fails
            peer.status("postcopy-recover-setup");
            peer.status("postcopy-paused");
            return paused("nobody listens there");
        case 5:
            peer.status("postcopy-recover-setup");
            peer.status("postcopy-recover");
            peer.status("postcopy-active");
            return figures("postcopy-active");
        case 7: peer.status("completed"); return figures("completed");
        default: return asked > 7 ? figures("completed") : asked > 5 ? figures("postcopy-active") : paused();
        }
    });
    ASSERT_TRUE(outcome) << outcome.error().to_string();
    EXPECT_EQ(outcome->code, exit_ok);
    EXPECT_EQ(recorder.states,
              (std::vector<std::string>{"postcopy-active", "postcopy-paused", "postcopy-recover-setup", "postcopy-paused",
                                        "postcopy-recover-setup", "postcopy-recover", "postcopy-active", "completed"}));
    EXPECT_TRUE(any_contains(recorder.notes, "paused: the connection broke"));
    EXPECT_TRUE(any_contains(recorder.notes, "attempt 1 of 5"));
    EXPECT_TRUE(any_contains(recorder.notes, "attempt 2 of 5"));
}

TEST(FollowPostcopy, EndsWhenTheMonitorsAttemptsAreUsedUp) {
    Recorder recorder;
    int attempts = 0;
    int asked = 0;
    const auto outcome = follow_fake(recorder, {}, [&](Peer& peer, const std::string& command) -> json {
        if (command == "query-migrate-parameters") {
            return recovery_parameters(2);
        }
        if (++asked == 1) {
            peer.status("postcopy-active");
            peer.status("postcopy-paused");
        } else if (asked % 3 == 0 && attempts < 2) {
            ++attempts;
            peer.status("postcopy-recover-setup");
            peer.status("postcopy-paused");
        }
        return paused();
    });
    ASSERT_TRUE(outcome) << outcome.error().to_string();
    EXPECT_EQ(outcome->code, exit_paused);
    EXPECT_EQ(attempts, 2);
}

TEST(FollowPostcopy, ADestinationsPauseIsTheEndForItsWatcher) {
    Recorder recorder;
    const auto outcome = follow_fake(recorder, {.cancel_on_interrupt = false}, [](Peer&, const std::string& command) -> json {
        return command == "query-migrate-parameters" ? recovery_parameters(5)
                                                     : json{{"status", "postcopy-paused"}, {"error-desc", "lost"}};
    });
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->code, exit_paused);
    EXPECT_FALSE(outcome->summary.last.source);
}

TEST(FollowPostcopy, APauseThatWasAskedForIsTheEnd) {
    Recorder recorder;
    const auto outcome = follow_fake(recorder, {.leave_when_paused = true}, [](Peer& peer, const std::string& command) -> json {
        EXPECT_NE(command, "query-migrate-parameters");
        peer.status("postcopy-paused");
        return paused();
    });
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->code, exit_paused);
}

TEST(FollowRecovery, ThePauseBeforeItIsNoEnd) {
    Recorder recorder;
    int asked = 0;
    const auto outcome = follow_fake(recorder, {.resumed = true}, [&](Peer& peer, const std::string&) -> json {
        switch (++asked) {
        case 1:
        case 2: return paused(); // a monitor without postcopy-recover-setup, which connects
        case 3:
            peer.status("postcopy-recover");
            peer.status("postcopy-active");
            peer.status("completed");
            return figures("completed");
        default: return figures("completed");
        }
    });
    ASSERT_TRUE(outcome) << outcome.error().to_string();
    EXPECT_EQ(outcome->code, exit_ok);
    EXPECT_EQ(recorder.states, (std::vector<std::string>{"postcopy-paused", "postcopy-recover", "postcopy-active", "completed"}));
}

TEST(FollowRecovery, EndsWhenPausedAgain) {
    Recorder recorder;
    const auto outcome =
        follow_fake(recorder, {.resumed = true}, [first = true](Peer& peer, const std::string& command) mutable -> json {
            if (command == "query-migrate-parameters") {
                return recovery_parameters(5); // for the next loss, not for an attempt that somebody made by hand
            }
            if (std::exchange(first, false)) {
                peer.status("postcopy-recover-setup");
                peer.status("postcopy-paused");
            }
            return paused("connect (peer 192.0.2.1:1): nobody listens");
        });
    ASSERT_TRUE(outcome) << outcome.error().to_string();
    EXPECT_EQ(outcome->code, exit_paused);
    EXPECT_EQ(recorder.states, (std::vector<std::string>{"postcopy-recover-setup", "postcopy-paused"}));
    EXPECT_EQ(outcome->summary.last.error, "connect (peer 192.0.2.1:1): nobody listens");
}

TEST(FollowRecovery, TellsEveryTransportThatWasTried) {
    Recorder recorder;
    const json transport{{"attempts", {{{"uri", "rdma:h:1"}, {"reason", "no route"}}}}};
    const auto outcome =
        follow_fake(recorder, {.resumed = true}, [&, first = true](Peer& peer, const std::string&) mutable -> json {
            if (std::exchange(first, false)) {
                peer.status("postcopy-recover-setup");
                peer.event("PAGEFERRY_TRANSPORT", transport);
                peer.status("postcopy-recover");
                peer.status("postcopy-active");
                peer.status("completed");
            }
            json answer = figures("completed");
            answer["x-pageferry-transport"] = transport;
            return answer;
        });
    ASSERT_TRUE(outcome) << outcome.error().to_string();
    EXPECT_EQ(recorder.notes, (std::vector<std::string>{"could not use rdma:h:1: no route"}));
}

TEST(FollowPostcopy, AnInterruptOnlyLeaves) {
    for (const char* status : {"postcopy-device", "postcopy-active", "postcopy-recover-setup", "postcopy-recover"}) {
        Recorder recorder;
        bool cancelled = false;
        recorder.on_progress = [] { ::kill(::getpid(), SIGINT); };
        const auto outcome = follow_fake(recorder, {}, [&](Peer&, const std::string& command) {
            cancelled = cancelled || command == "migrate_cancel";
            return figures(status);
        });
        ASSERT_TRUE(outcome) << outcome.error().to_string();
        EXPECT_EQ(outcome->code, exit_left) << status;
        EXPECT_TRUE(outcome->left_in_postcopy) << status;
        EXPECT_FALSE(cancelled) << status;
    }
}

TEST(FollowPostcopy, TheTimeoutCancelsNothing) {
    Recorder recorder;
    bool cancelled = false;
    int asked = 0;
    const auto outcome = follow_fake(recorder, {.timeout = milliseconds{30}}, [&](Peer&, const std::string& command) {
        cancelled = cancelled || command == "migrate_cancel";
        return figures(++asked < 10 ? "postcopy-active" : "completed"); // 20 ms from one to the next
    });
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->code, exit_ok);
    EXPECT_FALSE(cancelled);
    EXPECT_TRUE(any_contains(recorder.notes, "cannot be cancelled"));
}

} // namespace
} // namespace pageferry::cli
