#include "tcp_fallback/lane_groups.h"

#include <gtest/gtest.h>

#include <fcntl.h>

namespace pageferry::tcp {
namespace {

using std::chrono::milliseconds;

constexpr Clock::time_point start{};

Fd some_fd() {
    return Fd{::open("/dev/null", O_RDONLY | O_CLOEXEC)};
}

Preamble lane(LaneKind kind, std::uint16_t index, std::uint8_t connection = 1, std::uint16_t lanes = 2) {
    Preamble preamble{.version = 1, .kind = kind, .index = index, .lanes = lanes, .connection = {}, .session = {}, .epoch = 5};
    preamble.connection.fill(connection);
    preamble.session.fill(9);
    return preamble;
}

// true: the lane was the last one.
Result<bool> add(LaneGroups& groups, const Preamble& preamble, Clock::time_point now = start) {
    Fd socket = some_fd();
    auto set = groups.add(preamble, socket, now);
    if (!set) {
        EXPECT_TRUE(socket) << "a refused socket stays with the caller";
        return std::unexpected{set.error()};
    }
    EXPECT_FALSE(socket);
    return set->has_value();
}

TEST(LaneGroups, LanesOfOneConnectionMeetInAnyOrder) {
    LaneGroups groups{{}};
    EXPECT_FALSE(add(groups, lane(LaneKind::urgent, 0)).value());
    EXPECT_FALSE(add(groups, lane(LaneKind::bulk, 1)).value());
    EXPECT_FALSE(add(groups, lane(LaneKind::control, 0, 2)).value()) << "another caller in between";
    EXPECT_FALSE(add(groups, lane(LaneKind::control, 0)).value());
    Fd last = some_fd();
    const int number = last.get();
    const std::optional<LaneSet> set = groups.add(lane(LaneKind::bulk, 0), last, start).value();
    ASSERT_TRUE(set);
    if (!set) {
        return; // for the analyser, which does not know ASSERT_TRUE
    }
    EXPECT_TRUE(set->control);
    EXPECT_TRUE(set->urgent);
    ASSERT_EQ(set->bulk.size(), 2U);
    EXPECT_EQ(set->bulk[0].get(), number);
    EXPECT_EQ(set->agreed.epoch, 5U);
    EXPECT_EQ(groups.sockets().size(), 1U);
}

TEST(LaneGroups, WrongSessionAndOldEpochAreRefused) {
    GroupRules rules;
    rules.session.fill(8);
    LaneGroups strict{rules};
    EXPECT_EQ(add(strict, lane(LaneKind::control, 0)).error().code, ErrorCode::refused);
    rules.session.fill(9);
    rules.epoch = 6;
    LaneGroups later{rules};
    EXPECT_NE(add(later, lane(LaneKind::control, 0)).error().reason.find("epoch 5"), std::string::npos);
    rules.epoch = 4;
    LaneGroups earlier{rules};
    EXPECT_TRUE(add(earlier, lane(LaneKind::control, 0)));
    EXPECT_TRUE(strict.sockets().empty());
}

TEST(LaneGroups, ALaneTwiceOrLanesThatDisagreeAreRefused) {
    LaneGroups groups{{}};
    ASSERT_TRUE(add(groups, lane(LaneKind::bulk, 0)));
    EXPECT_FALSE(add(groups, lane(LaneKind::bulk, 0)));
    EXPECT_FALSE(add(groups, lane(LaneKind::bulk, 2, 1, 3))) << "another number of lanes";
    Preamble other = lane(LaneKind::bulk, 1);
    other.epoch = 6;
    EXPECT_FALSE(add(groups, other));
    EXPECT_EQ(groups.sockets().size(), 1U);
}

TEST(LaneGroups, AGroupThatStaysIncompleteGoes) {
    GroupRules rules;
    rules.patience = milliseconds{100};
    LaneGroups groups{rules};
    ASSERT_TRUE(add(groups, lane(LaneKind::control, 0)));
    ASSERT_TRUE(add(groups, lane(LaneKind::bulk, 0), start + milliseconds{90}));
    EXPECT_EQ(groups.next_expiry(), start + milliseconds{100});
    EXPECT_TRUE(groups.expire(start + milliseconds{99}).empty());
    const auto dropped = groups.expire(start + milliseconds{100});
    ASSERT_EQ(dropped.size(), 1U);
    EXPECT_EQ(dropped[0].sockets.size(), 2U);
    EXPECT_NE(dropped[0].error.reason.find("2 of its 4"), std::string::npos);
    EXPECT_FALSE(groups.next_expiry());
}

TEST(LaneGroups, TheOldestGroupGivesWayToANewOne) {
    GroupRules rules;
    rules.max_groups = 2;
    LaneGroups groups{rules};
    for (std::uint8_t i = 1; i <= 3; ++i) {
        ASSERT_TRUE(add(groups, lane(LaneKind::control, 0, i)));
    }
    EXPECT_EQ(groups.expire(start).size(), 1U);
    EXPECT_EQ(groups.sockets().size(), 2U);
}

TEST(LaneGroups, OneLaneThatGoesTakesItsGroupAlong) {
    LaneGroups groups{{}};
    ASSERT_TRUE(add(groups, lane(LaneKind::control, 0)));
    ASSERT_TRUE(add(groups, lane(LaneKind::bulk, 0)));
    ASSERT_TRUE(add(groups, lane(LaneKind::control, 0, 2)));
    const auto dropped = groups.drop(groups.sockets().front());
    EXPECT_EQ(dropped ? dropped->sockets.size() : 0, 2U);
    EXPECT_EQ(groups.sockets().size(), 1U);
    EXPECT_FALSE(groups.drop(-1));
}

} // namespace
} // namespace pageferry::tcp
