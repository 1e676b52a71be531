#include "statemachine/status.h"

#include <gtest/gtest.h>

#include <set>

using namespace pageferry::statemachine;

namespace {

std::set<Status> reached_from(Side side, Status start) {
    std::set<Status> reached{start};
    for (bool grew = true; grew;) {
        grew = false;
        for (const Transition& row : transitions()) {
            grew |= row.side == side && reached.contains(row.from) && reached.insert(row.to).second;
        }
    }
    return reached;
}

TEST(Status, NamesGoThereAndBack) {
    for (std::size_t i = 0; i < status_count; ++i) {
        const auto status = static_cast<Status>(i);
        EXPECT_EQ(status_from_name(name_of(status)), status) << name_of(status);
    }
    EXPECT_EQ(name_of(Status::postcopy_recover_setup), "postcopy-recover-setup");
    EXPECT_EQ(status_from_name("post-copy"), std::nullopt);
    EXPECT_EQ(status_from_name(""), std::nullopt);
}

TEST(Status, EveryStatusIsReachedButColo) {
    const auto source = reached_from(Side::source, Status::none);
    EXPECT_EQ(source.size(), status_count - 1);
    EXPECT_FALSE(source.contains(Status::colo));
    const std::set<Status> destination{Status::none,
                                       Status::setup,
                                       Status::active,
                                       Status::completed,
                                       Status::failed,
                                       Status::postcopy_device,
                                       Status::postcopy_active,
                                       Status::postcopy_paused,
                                       Status::postcopy_recover};
    EXPECT_EQ(reached_from(Side::destination, Status::none), destination);
}

TEST(Status, EveryRunningStatusHasAWayOut) {
    for (const Side side : {Side::source, Side::destination}) {
        for (const Status status : reached_from(side, Status::none)) {
            if (is_running(status)) {
                const auto ends = reached_from(side, status);
                EXPECT_TRUE(ends.contains(Status::completed) || ends.contains(Status::failed) || ends.contains(Status::cancelled))
                    << name_of(side) << " " << name_of(status);
            }
        }
    }
}

TEST(Status, AfterThePermitNothingFailsOrIsCancelled) {
    for (const Side side : {Side::source, Side::destination}) {
        for (const Transition& row : transitions()) {
            if (row.side == side && is_paused(row.from)) {
                EXPECT_TRUE(row.to == Status::postcopy_paused || row.to == Status::postcopy_recover_setup ||
                            row.to == Status::postcopy_recover)
                    << name_of(row.from) << " -> " << name_of(row.to);
            }
        }
        for (std::size_t cause = 0; cause < cause_count; ++cause) {
            EXPECT_FALSE(is_legal(side, Status::postcopy_paused, Status::completed, static_cast<Cause>(cause)));
        }
    }
}

TEST(Status, ABreakAfterThePermitPausesAPrecopyToo) {
    EXPECT_TRUE(is_legal(Side::source, Status::device, Status::postcopy_paused, Cause::connection_lost));
    EXPECT_TRUE(is_legal(Side::destination, Status::active, Status::postcopy_paused, Cause::connection_lost));
    EXPECT_FALSE(is_legal(Side::source, Status::active, Status::postcopy_paused, Cause::connection_lost));
    EXPECT_FALSE(is_legal(Side::source, Status::device, Status::postcopy_paused, Cause::error));
}

TEST(Status, PausedAndRunningAreQemus) {
    EXPECT_TRUE(is_paused(Status::postcopy_paused));
    EXPECT_TRUE(is_paused(Status::postcopy_recover_setup));
    EXPECT_FALSE(is_paused(Status::postcopy_recover));
    for (const Status status : {Status::none, Status::cancelled, Status::completed, Status::failed}) {
        EXPECT_FALSE(is_running(status)) << name_of(status);
    }
    for (const Status status : {Status::setup, Status::failing, Status::cancelling, Status::postcopy_paused, Status::device}) {
        EXPECT_TRUE(is_running(status)) << name_of(status);
    }
}

} // namespace
