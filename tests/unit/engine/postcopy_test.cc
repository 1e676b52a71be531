// A postcopy that nothing goes wrong in: what is pulled, in which order, how fast, and what the guests see of it.
#include "tests/unit/engine/postcopy_pair.h"

#include "memory/extent.h"
#include "transport/session/channel.h"

#include <chrono>

namespace pageferry::engine {
namespace {

using memory::testing::PageKind;
using statemachine::Status;
using testing::pages;
using testing::PostcopyPair;
using testing::soon;
using testing::taken;
using testing::traced;
namespace session = transport::session;

class Postcopy : public PostcopyPair {};

class PostcopyOf : public PostcopyPair, public ::testing::WithParamInterface<PageKind> {
protected:
    PageKind kind() override { return GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Pages, PostcopyOf, ::testing::Values(memory::testing::small_pages, memory::testing::huge_pages),
                         [](const auto& tested) { return tested.param.name; });

// The destination's guest goes to every page as soon as it runs: it sees what the source's had written, and nothing that comes
// later is laid over what it writes.
TEST_P(PostcopyOf, AGuestThatNeverStandsStillMoves) {
    fill_source();
    source_guest_->writing = true;
    source_process_->start_writing(11);
    source_page_.limits.max_bandwidth = 64 << 20;
    source_page_.limits.downtime_limit_ms = 0;
    on_run_ = [this] { destination_process_->start_visiting(4); };
    start_destination();
    make_source(relay_->uri());
    start_source();
    ASSERT_TRUE(soon([this] { return source_page_.progress.dirty_sync_count >= 2; }));
    EXPECT_EQ(source_machine_.status(), Status::active);
    source_->start_postcopy();
    expect_done();
    EXPECT_TRUE(soon([this] { return destination_process_->visited_all(); }));
    expect_same_ram();
    EXPECT_GT(missing_at_first_, 0U);
    EXPECT_EQ(destination_page_.postcopy.bytes, missing_at_first_) << "each page was pulled once";
    EXPECT_EQ(destination_guest_.state, testing::device_state);
    EXPECT_EQ(taken(source_events_), traced("postcopy", "src"));
    EXPECT_EQ(taken(destination_events_), traced("postcopy", "dst"));
}

TEST_P(PostcopyOf, WhatPrecopyHasDeliveredIsNotPulledAgain) {
    fill_source();
    const std::vector<std::vector<std::uint64_t>> written{{1, 2, 3, pages_of(0) - 1}, {0, pages_of(1) - 1}};
    leave_for_postcopy(written);
    source_guest_->on_save = {2, 5}; // block 0: saving device state writes these
    start_destination();
    make_source(relay_->uri());
    start_source();
    expect_done();
    EXPECT_EQ(source_page_.progress.ram_transferred, (touched_of(0) + touched_of(1)) * page_size());
    EXPECT_EQ(missing_at_first_, 7 * page_size());
    EXPECT_EQ(destination_page_.postcopy.bytes, 7 * page_size());
    EXPECT_EQ(source_page_.postcopy.bytes, 7 * page_size()) << "the source is told";
    expect_same_ram();
}

// In parts, all of them when the guest runs at the destination: as if RAM were so large that there had been no time before.
TEST_P(PostcopyOf, WhatPrecopyHasDeliveredMayBeToldAfterwards) {
    telling_ = {.while_stopped = std::chrono::microseconds{0}, .part_bytes = 64 * page_size()};
    fill_source();
    leave_for_postcopy({{1, 2, 3, pages_of(0) - 1}, {0, pages_of(1) - 1}});
    source_guest_->on_save = {2, 5};
    start_destination();
    make_source(relay_->uri());
    start_source();
    expect_done();
    EXPECT_EQ(missing_at_first_, (pages_of(0) + pages_of(1)) * page_size()) << "nothing was told";
    EXPECT_EQ(destination_page_.postcopy.bytes, 7 * page_size()) << "it was waited for";
    EXPECT_EQ(missing_bytes(), 0U);
    expect_same_ram();
}

TEST_P(PostcopyOf, AGuestMayGoAnywhereBeforeItIsToldWhatIsThere) {
    telling_ = {.while_stopped = std::chrono::microseconds{0}, .part_bytes = 64 * page_size()};
    fill_source();
    source_guest_->writing = true;
    source_process_->start_writing(11);
    source_page_.limits.downtime_limit_ms = 0;
    on_run_ = [this] { destination_process_->start_visiting(4); };
    start_destination();
    make_source(relay_->uri());
    start_source();
    ASSERT_TRUE(soon([this] { return source_page_.progress.dirty_sync_count >= 2; }));
    source_->start_postcopy();
    expect_done();
    EXPECT_TRUE(soon([this] { return destination_process_->visited_all(); }));
    expect_same_ram();
    EXPECT_EQ(taken(destination_events_), traced("postcopy", "dst"));
}

TEST_P(PostcopyOf, FaultsDoNotWaitForWhatIsPulledInTheBackground) {
    start_slow_postcopy();
    std::vector<std::size_t> touches;
    for (std::size_t block = 0; block < 2; ++block) {
        for (std::uint64_t page = 0; page < touched_of(block); page += std::max<std::uint64_t>(3, touched_of(block) / 100)) {
            touches.push_back(destination_process_->touch(block, page));
        }
    }
    for (const std::size_t touch : touches) {
        EXPECT_TRUE(soon([&] { return word(touch).has_value(); }));
        EXPECT_NE(word(touch), 0U) << "the source's guest had written it";
    }
    EXPECT_GT(missing_bytes(), missing_at_first_ / 4) << "in the background there is much to come";
    EXPECT_GT(destination_page_.postcopy.requests, 0U);
    EXPECT_LE(destination_page_.postcopy.requests, touches.size());
    source_page_.limits.postcopy_bandwidth = 0;
    expect_done();
    EXPECT_EQ(source_page_.postcopy.requests, destination_page_.postcopy.requests) << "the source is told";
    expect_same_ram();
}

TEST_P(PostcopyOf, HolesStayHolesUntilTheyAreTouched) {
    fill_source();
    leave_for_postcopy({pages(0, touched_of(0) / 2)});
    start_destination();
    make_source(relay_->uri());
    start_source();
    expect_done();
    for (std::size_t block = 0; block < 2; ++block) {
        const auto data = memory::data_extents(destination_process_->block(block));
        ASSERT_TRUE(data);
        EXPECT_EQ(memory::total_length(*data), touched_of(block) * page_size());
    }
    const auto touch = destination_process_->touch(0, pages_of(0) - 1);
    EXPECT_TRUE(soon([&] { return word(touch).has_value(); }));
    EXPECT_EQ(word(touch), 0U);
    expect_same_ram();
}

TEST_F(Postcopy, AHoleThatIsTouchedIsZerosAndIsNotPulled) {
    start_slow_postcopy();
    const auto touch = destination_process_->touch(0, pages_of(0) - 1);
    EXPECT_TRUE(soon([&] { return word(touch).has_value(); }));
    EXPECT_EQ(word(touch), 0U);
    EXPECT_EQ(destination_page_.postcopy.requests, 0U);
    source_page_.limits.postcopy_bandwidth = 0;
    expect_done();
    expect_same_ram();
}

// What may go in a time is at most the limit's worth of it and what may go at once after a pause.
TEST_P(PostcopyOf, TheLimitIsKeptAndMayBeChanged) {
    const auto begun = std::chrono::steady_clock::now();
    const std::uint64_t at_once = page_size() + (128 << 10);
    const auto within = [&](std::uint64_t before, std::chrono::steady_clock::time_point since, std::uint64_t limit) {
        const std::uint64_t pulled = destination_page_.postcopy.bytes - before; // first this, then the time
        const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - since;
        return static_cast<double>(pulled) <= static_cast<double>(limit) * passed.count() + static_cast<double>(at_once);
    };
    start_slow_postcopy();
    for (int i = 0; i < 100; ++i) {
        ASSERT_TRUE(within(0, begun, 64 << 10)) << destination_page_.postcopy.bytes;
        std::this_thread::sleep_for(std::chrono::milliseconds{10});
    }
    // The destination's own, when it is lower; the source's is faster from now on.
    destination_page_.limits.postcopy_bandwidth = 256 << 10;
    source_page_.limits.postcopy_bandwidth = 1 << 30;
    const std::uint64_t before = destination_page_.postcopy.bytes;
    const auto changed = std::chrono::steady_clock::now();
    for (int i = 0; i < 100; ++i) {
        ASSERT_TRUE(within(before, changed, 256 << 10)) << destination_page_.postcopy.bytes;
        std::this_thread::sleep_for(std::chrono::milliseconds{10});
    }
    EXPECT_GT(missing_bytes(), 0U);
    destination_page_.limits.postcopy_bandwidth = 0;
    expect_done();
    expect_same_ram();
}

TEST_F(Postcopy, AskedForWhereItMayNotBecomeOneItIsAPrecopy) {
    fill_source();
    leave_all_for_postcopy();
    make_destination(false);
    start_destination();
    make_source(uri_, false);
    start_source();
    ASSERT_TRUE(source_done_.get());
    ASSERT_TRUE(destination_done_.get());
    EXPECT_EQ(taken(source_events_), traced("precopy", "src"));
    EXPECT_EQ(taken(destination_events_), traced("precopy", "dst"));
    expect_same_ram();
}

TEST_F(Postcopy, NotAskedForItIsAPrecopy) {
    fill_source();
    start_destination();
    make_source(uri_);
    start_source();
    ASSERT_TRUE(source_done_.get());
    ASSERT_TRUE(destination_done_.get());
    EXPECT_EQ(taken(source_events_), traced("precopy", "src"));
    EXPECT_EQ(taken(destination_events_), traced("precopy", "dst"));
    EXPECT_EQ(destination_page_.postcopy.bytes, 0U);
    expect_same_ram();
}

TEST_F(Postcopy, WithNothingMissingItEndsAtOnce) {
    fill_source();
    leave_for_postcopy({});
    start_destination();
    make_source(uri_);
    start_source();
    expect_done();
    EXPECT_EQ(missing_at_first_, 0U);
    EXPECT_EQ(taken(source_events_), traced("postcopy", "src"));
    EXPECT_EQ(taken(destination_events_), traced("postcopy", "dst"));
    expect_same_ram();
}

TEST_F(Postcopy, TheUserMayBeAskedBeforeTheSwitchover) {
    fill_source();
    leave_for_postcopy({{1, 2, 3}});
    source_guest_->may_continue = false;
    start_destination();
    make_source(uri_, true, true);
    start_source();
    ASSERT_TRUE(soon([this] { return source_machine_.status() == Status::pre_switchover; }));
    source_process_->write(0, {3, 4}); // a storage job
    source_guest_->may_continue = true;
    expect_done();
    EXPECT_EQ(missing_at_first_, 4 * page_size());
    EXPECT_EQ(taken(source_events_), (std::vector<std::string>{"setup", "active", "pre-switchover", "device", "postcopy-device",
                                                               "postcopy-active", "completed"}));
    expect_same_ram();
}

// --- who agrees with whom ----------------------------------------------------------------------------------------------------

TEST_F(Postcopy, ASourceWithoutItIsRefusedAndChangesNothing) {
    fill_source();
    start_destination();
    make_source(uri_, false);
    const auto refused = source_->run();
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().to_string().find("postcopy-ram is on at the destination and off at the source"), std::string::npos)
        << refused.error().to_string();
    EXPECT_EQ(source_machine_.status(), Status::failing);
    EXPECT_EQ(taken(destination_events_), std::vector<std::string>{"setup"}) << "it goes on listening";
    ASSERT_TRUE(source_machine_.transition(Status::failed, statemachine::Cause::cleaned_up));
    ASSERT_TRUE(source_machine_.transition(Status::setup, statemachine::Cause::requested));
    leave_all_for_postcopy();
    make_source(uri_);
    start_source();
    expect_done();
    expect_same_ram();
}

TEST_F(Postcopy, ADestinationWithoutItRefusesAndGoesOnListening) {
    fill_source();
    make_destination(false);
    start_destination();
    make_source(uri_);
    const auto refused = source_->run();
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().to_string().find("postcopy-ram is on at the source and off at the destination"), std::string::npos)
        << refused.error().to_string();
    EXPECT_EQ(taken(destination_events_), std::vector<std::string>{"setup"});
    ASSERT_TRUE(source_machine_.transition(Status::failed, statemachine::Cause::cleaned_up));
    ASSERT_TRUE(source_machine_.transition(Status::setup, statemachine::Cause::requested));
    make_source(uri_, false);
    start_source();
    ASSERT_TRUE(source_done_.get());
    ASSERT_TRUE(destination_done_.get());
    expect_same_ram();
}

// It asks whether a destination is there, not for a migration; what it says next is none either.
TEST_F(Postcopy, AProbesHelloIsAnswered) {
    start_destination();
    {
        auto connection = tcp_->open(uri_, options_);
        ASSERT_TRUE(connection);
        ASSERT_TRUE(connection->connect(std::chrono::minutes{1}, {}));
        session::Channel channel{*connection, std::chrono::minutes{1}};
        ASSERT_TRUE(
            channel.send(session::Hello{.session = options_.session, .features = session::feature_probe, .software = {}}));
        const auto answer = channel.receive(std::chrono::minutes{1});
        ASSERT_TRUE(answer && *answer) << (answer ? "nothing" : answer.error().to_string());
        ASSERT_TRUE(std::holds_alternative<session::HelloReply>(**answer));
        EXPECT_EQ(std::get<session::HelloReply>(**answer).features, 0U);
    }
    EXPECT_TRUE(soon([this] { return turned_away().size() == 1; }));
    EXPECT_EQ(taken(destination_events_), std::vector<std::string>{"setup"});
    fill_source();
    leave_all_for_postcopy();
    make_source(uri_);
    start_source();
    expect_done();
    expect_same_ram();
}

} // namespace
} // namespace pageferry::engine
