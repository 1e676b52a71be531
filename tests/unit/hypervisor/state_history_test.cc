#include "hypervisor/monitor_process/state_history.h"

#include "hypervisor/monitor_process/query_migrate.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace pageferry::hypervisor {
namespace {

using nlohmann::json;
using statemachine::Event;
using statemachine::Status;
using std::chrono::microseconds;

Event event(Status to, microseconds when) {
    Event made;
    made.to = to;
    made.time = std::chrono::system_clock::time_point{std::chrono::duration_cast<std::chrono::system_clock::duration>(when)};
    return made;
}

TEST(StateHistory, HasEveryStateWithItsTime) {
    StateHistory history;
    EXPECT_EQ(history.shown(), json::array());
    history.note(event(Status::setup, microseconds{5'000'001}));
    history.note(event(Status::active, microseconds{6'250'000}));
    EXPECT_EQ(history.shown(), json::parse(R"([{"status": "setup", "timestamp": {"seconds": 5, "microseconds": 1}},
                                               {"status": "active", "timestamp": {"seconds": 6, "microseconds": 250000}}])"));
    history.note(event(Status::failed, microseconds{7'000'000}));
    history.note(event(Status::setup, microseconds{8'000'000}));
    EXPECT_EQ(history.shown().size(), 1U) << "another migration";
}

TEST(StateHistory, ForgetsTheOldestOfVeryMany) {
    StateHistory history;
    history.note(event(Status::setup, microseconds{0}));
    for (std::size_t i = 0; i < 2 * StateHistory::most; ++i) {
        history.note(event(i % 2 == 0 ? Status::postcopy_paused : Status::postcopy_recover_setup, std::chrono::seconds{i}));
    }
    const json shown = history.shown();
    EXPECT_EQ(shown.size(), StateHistory::most);
    EXPECT_EQ(shown.back()["timestamp"]["seconds"], 2 * StateHistory::most - 1);
}

TEST(StateHistory, IsInQueryMigrate) {
    StateHistory history;
    history.note(event(Status::setup, microseconds{0}));
    EXPECT_EQ(query_migrate({.status = Status::setup, .history = &history})["x-pageferry-history"], history.shown());
    EXPECT_FALSE(query_migrate({.status = Status::setup}).contains("x-pageferry-history"));
    EXPECT_FALSE(query_migrate({.history = &history}).contains("x-pageferry-history")) << "before the first migration";
}

} // namespace
} // namespace pageferry::hypervisor
