// QEMU 11.1's own event traces (tests/data/qemu-11.1-traces.json) walk the table, on both sides.
#include "statemachine/machine.h"

#include <nlohmann/json.hpp>

#include <gtest/gtest.h>

#include <fstream>

using namespace pageferry::statemachine;

namespace {

nlohmann::json traces() {
    std::ifstream file{PAGEFERRY_SOURCE_DIR "/tests/data/qemu-11.1-traces.json"};
    return nlohmann::json::parse(file);
}

// A cause that makes the change legal. A trace tells states, not causes.
std::optional<Cause> cause_for(Side side, Status from, Status to) {
    for (const Transition& row : transitions()) {
        if (row.side == side && row.from == from && row.to == to) {
            return row.cause;
        }
    }
    return std::nullopt;
}

void walk(const std::string& scenario, Side side, const nlohmann::json& steps) {
    EventQueue queue;
    Machine machine{side, queue};
    std::vector<std::string> expected;
    for (const auto& step : steps) {
        if (step.value("event", "") != "MIGRATION") {
            continue;
        }
        expected.push_back(step.at("status"));
        const auto to = status_from_name(expected.back());
        ASSERT_TRUE(to) << scenario << ": no status " << expected.back();
        const auto cause = cause_for(side, machine.status(), *to);
        ASSERT_TRUE(cause) << scenario << ": " << name_of(side) << " " << name_of(machine.status()) << " -> " << expected.back();
        ASSERT_TRUE(machine.transition(*to, *cause));
    }
    std::vector<std::string> events;
    while (const auto event = queue.take()) {
        events.emplace_back(name_of(event->to));
    }
    EXPECT_EQ(events, expected) << scenario;
}

TEST(Traces, QemusWalkTheTable) {
    const auto all = traces();
    ASSERT_GE(all.size(), 9U);
    for (const auto& [scenario, sides] : all.items()) {
        SCOPED_TRACE(scenario);
        walk(scenario, Side::source, sides.at("src"));
        walk(scenario, Side::destination, sides.at("dst"));
    }
}

TEST(Traces, RefusedCommandsChangeNoState) {
    const auto all = traces();
    for (const char* side : {"src", "dst"}) {
        for (const auto& step : all.at("refusals_idle").at(side)) {
            EXPECT_FALSE(step.contains("event")) << step.dump();
        }
    }
}

} // namespace
