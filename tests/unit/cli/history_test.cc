#include "cli/history.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace pageferry::cli {
namespace {

using nlohmann::json;
using std::chrono::microseconds;
using std::chrono::milliseconds;

History recovered() {
    History history;
    enter_state(history, "setup", microseconds{1'000'000});
    enter_state(history, "active", microseconds{1'020'000});
    enter_state(history, "postcopy-paused", microseconds{4'120'000});
    enter_state(history, "completed", microseconds{8'320'400});
    return history;
}

TEST(Histories, SayHowLongEachStateLasted) {
    EXPECT_EQ(render_history(recovered()), "setup 20 ms, active 3.1 s, postcopy-paused 4.2 s, completed");
    EXPECT_EQ(render_history({}), "");
}

TEST(Histories, CountOnInTheLatestState) {
    History history;
    count_until(history, microseconds{5});
    EXPECT_TRUE(history.empty());
    enter_state(history, "active", microseconds{0});
    count_until(history, microseconds{1'500'000});
    count_until(history, microseconds{2'500'000});
    EXPECT_EQ(render_history(history), "active 2.5 s");
}

TEST(Histories, KnowNoNegativeTimes) {
    History history;
    enter_state(history, "setup", microseconds{5'000'000});
    enter_state(history, "active", microseconds{1'000'000});
    EXPECT_EQ(history.front().lasted, milliseconds{0});
}

TEST(Histories, AreBrokenBetweenStates) {
    const auto lines = render_history_lines(recovered(), 26);
    EXPECT_EQ(lines, (std::vector<std::string>{"setup 20 ms, active 3.1 s,", "postcopy-paused 4.2 s,", "completed"}));
}

TEST(Histories, LeaveOutTheMiddleOfALongOne) {
    History history;
    for (int i = 0; i < 1000; ++i) {
        enter_state(history, i % 2 == 0 ? "postcopy-paused" : "postcopy-recover-setup", milliseconds{i});
    }
    enter_state(history, "completed", milliseconds{1000});
    const std::string text = render_history(history);
    EXPECT_LT(text.size(), 1000U);
    EXPECT_TRUE(text.contains("... (977 more) ...")) << text;
    EXPECT_TRUE(text.starts_with("postcopy-paused 1 ms, ")) << text;
    EXPECT_TRUE(text.ends_with(", completed")) << text;
}

TEST(Histories, KeepControlCharactersOut) {
    History history;
    enter_state(history, "a\x1b[2J\n", microseconds{0});
    EXPECT_EQ(render_history(history), "a [2J ");
}

TEST(Histories, AreReadFromAMonitor) {
    const History history = parse_history(json::parse(R"([
        {"status": "setup", "timestamp": {"seconds": 1, "microseconds": 0}},
        {"status": "active", "timestamp": {"seconds": 1, "microseconds": 20000}},
        {"status": 7, "timestamp": {"seconds": 1, "microseconds": 0}}, 5, {"status": "x"},
        {"status": "x", "timestamp": {"seconds": -1, "microseconds": 0}},
        {"status": "x", "timestamp": {"seconds": 1, "microseconds": 1000000}},
        {"status": "completed", "timestamp": {"seconds": 4, "microseconds": 120000}}])"));
    EXPECT_EQ(render_history(history), "setup 20 ms, active 3.1 s, completed");
    EXPECT_TRUE(parse_history(json::object()).empty());
    EXPECT_TRUE(parse_history(json{}).empty());
}

} // namespace
} // namespace pageferry::cli
