// A postcopy whose connection is cut: at each message of the recovery's dialogue, at those of the hand-over, and again and again.
#include "tests/unit/engine/failing_transport.h"
#include "tests/unit/engine/postcopy_pair.h"

#include <thread>

namespace pageferry::engine {
namespace {

using statemachine::Status;
using testing::PostcopyPair;
using testing::soon;
using testing::taken;
using testing::traced;

// Messages by their numbers (docs/protocol.md).
struct At {
    const char* name;
    unsigned type;
};
void PrintTo(const At& at, std::ostream* out) {
    *out << at.name;
}
constexpr At hello{.name = "Hello", .type = 1};
constexpr At hello_reply{.name = "HelloReply", .type = 2};
constexpr At ram_table{.name = "RamTable", .type = 3};
constexpr At permit{.name = "Permit", .type = 13};
constexpr At running{.name = "Running", .type = 14};
constexpr At delivered{.name = "Delivered", .type = 18};
constexpr At pull_limit{.name = "PullLimit", .type = 19};
constexpr At pull_progress{.name = "PullProgress", .type = 20};
constexpr At resume{.name = "Resume", .type = 21};
constexpr At received{.name = "Received", .type = 22};

// A control message of this type is the last of its connection; 0: none. before: the peer does not get it.
std::atomic<unsigned> cut_at{0};
std::atomic<bool> cut_before{true};
// Messages of this type are still in the line when it is cut; 0: none.
std::atomic<unsigned> never_arrives{0};
// Called before each permit is sent.
std::function<void()> before_permit; // NOLINT(cert-err58-cpp): an empty function

void cuts(pf_transport& table) {
    table.send = [](pf_connection* connection, const void* message, size_t length, int64_t timeout_ms, pf_error* error) -> int {
        unsigned type = length >= 6 ? static_cast<const unsigned char*>(message)[4] : 0;
        if (type == permit.type && before_permit) {
            before_permit();
        }
        if (type != 0 && type == never_arrives) {
            return PF_OK;
        }
        if (type == 0 || !cut_at.compare_exchange_strong(type, 0)) {
            return testing::real_tcp->send(connection, message, length, timeout_ms, error);
        }
        if (!cut_before) {
            std::ignore = testing::real_tcp->send(connection, message, length, timeout_ms, error);
        }
        testing::real_tcp->cancel(connection);
        return testing::fail(error, PF_CLOSED, "the line is cut");
    };
}

class PostcopyCut : public PostcopyPair, public ::testing::WithParamInterface<At> {
protected:
    void SetUp() override {
        cut_at = 0;
        cut_before = true;
        never_arrives = 0;
        before_permit = {};
        PostcopyPair::SetUp();
        if (tcp_) {
            source_tcp_ = destination_tcp_ = testing::changed_tcp(*tcp_, cuts);
            make_destination();
        }
    }
    // Up to where it is cut.
    void start_and_cut(const At& at) {
        fill_source();
        leave_all_for_postcopy();
        source_page_.limits.postcopy_bandwidth = 64 << 10;
        start_destination();
        make_source(relay_->uri());
        cut_at = at.type;
        EXPECT_FALSE(source_->run());
        EXPECT_EQ(cut_at, 0U) << "it did not come by";
    }
    void attempt_and_cut(const At& at) {
        auto& attempt = make_recovery(relay_->uri());
        cut_at = at.type;
        expect_attempt_in_vain(attempt.run());
        EXPECT_EQ(cut_at, 0U) << "it did not come by";
        EXPECT_TRUE(soon([this] { return both_paused(); }));
    }
};
const auto named = [](const auto& tested) { return std::string{tested.param.name}; };

INSTANTIATE_TEST_SUITE_P(At, PostcopyCut, ::testing::Values(hello, hello_reply, ram_table, pull_limit, resume, pull_progress),
                         named);

TEST_P(PostcopyCut, InARecoverysDialogueItIsRecoveredByTheNext) {
    start_slow_postcopy();
    pause_both();
    for (const bool before : {true, false}) {
        cut_before = before;
        attempt_and_cut(GetParam());
    }
    recover_to_the_end();
    EXPECT_EQ(destination_page_.postcopy.bytes, missing_at_first_) << "each page was pulled once";
    expect_same_ram();
}

// Who runs the guest is not known at the source; the recovery tells.
class PostcopyHandOver : public PostcopyCut {};
INSTANTIATE_TEST_SUITE_P(At, PostcopyHandOver, ::testing::Values(permit, running), named);

TEST_P(PostcopyHandOver, LostItIsSettledByTheRecovery) {
    start_and_cut(GetParam());
    EXPECT_TRUE(soon([this] { return both_paused(); }));
    EXPECT_EQ(runs_, GetParam().type == permit.type ? 0 : 1);
    if (GetParam().type == permit.type) { // both are said once more, and lost once more
        attempt_and_cut(permit);
        EXPECT_EQ(runs_, 0);
        attempt_and_cut(running);
        EXPECT_EQ(runs_, 1);
    }
    recover_to_the_end();
    expect_same_ram();
}

class PostcopyPermit : public PostcopyCut {};
INSTANTIATE_TEST_SUITE_P(At, PostcopyPermit, ::testing::Values(permit), named);

TEST_P(PostcopyPermit, ItMayComeWhenAllPagesHaveCome) {
    start_and_cut(permit);
    EXPECT_TRUE(soon([this] { return both_paused(); }));
    before_permit = [this] {
        EXPECT_TRUE(soon([this] { return destination_page_.progress.ram_remaining == 0; }));
        std::this_thread::sleep_for(std::chrono::milliseconds{20}); // whoever is told of it has been told, most times
    };
    recover_to_the_end();
    expect_same_ram();
}

class PostcopyDelivered : public PostcopyCut {};
INSTANTIATE_TEST_SUITE_P(At, PostcopyDelivered, ::testing::Values(running), named);

// What it was not told of is pulled, whether precopy had delivered it or not.
TEST_P(PostcopyDelivered, CutBeforeItIsToldWhatIsThereNothingIsLost) {
    telling_ = {.while_stopped = std::chrono::microseconds{0}, .part_bytes = 64 * page_size()};
    never_arrives = delivered.type;
    start_and_cut(GetParam());
    EXPECT_TRUE(soon([this] { return both_paused(); }));
    EXPECT_EQ(missing_at_first_, (pages_of(0) + pages_of(1)) * page_size());
    EXPECT_GT(missing_bytes(), (touched_of(0) + touched_of(1)) * page_size());
    recover_to_the_end();
    EXPECT_EQ(destination_page_.postcopy.bytes, missing_at_first_) << "each page once, also those that were never touched";
    expect_same_ram();
}

class PostcopyReceived : public PostcopyCut {};
INSTANTIATE_TEST_SUITE_P(At, PostcopyReceived, ::testing::Values(received), named);

// The destination has completed and needs nobody; the source does not know it.
TEST_P(PostcopyReceived, LostItIsToldInTheRecovery) {
    fill_source();
    leave_all_for_postcopy();
    start_destination();
    make_source(relay_->uri());
    cut_at = received.type;
    EXPECT_FALSE(source_->run());
    EXPECT_EQ(source_machine_.status(), Status::postcopy_paused);
    EXPECT_TRUE(soon([this] { return destination_machine_.status() == Status::completed; }));
    // And once more, so that it is told by a recovery of a recovery.
    auto& attempt = make_recovery(relay_->uri());
    cut_at = received.type;
    expect_attempt_in_vain(attempt.run());
    recover_to_the_end();
    EXPECT_EQ(taken(destination_events_), traced("postcopy", "dst")) << "it has completed, and stays so";
    expect_same_ram();
}

// Without sense for where it is: by the cable.
class PostcopyCable : public PostcopyPair {};

TEST_F(PostcopyCable, CutAgainAndAgainNothingIsLost) {
    start_slow_postcopy();
    std::vector<std::string> source{traced("postcopy", "src")};
    std::vector<std::string> destination{traced("postcopy", "dst")};
    source.pop_back();
    destination.pop_back();
    for (int cut = 0; cut < 20; ++cut) {
        const std::uint64_t before = destination_page_.postcopy.bytes;
        for (std::uint64_t page = 0; page < 40; ++page) {
            destination_process_->touch(0, static_cast<std::uint64_t>(cut) + 20 * page);
        }
        ASSERT_TRUE(soon([&] { return destination_page_.postcopy.bytes >= before + 20 * page_size(); }));
        relay_->cut();
        EXPECT_FALSE(source_done_.get());
        ASSERT_TRUE(soon([this] { return both_paused(); }));
        EXPECT_FALSE(source_machine_.error().empty());
        EXPECT_FALSE(destination_machine_.error().empty());
        ASSERT_GT(missing_bytes(), 0U) << "cut " << cut << " came too late";
        auto& recovery = make_recovery(relay_->uri());
        source_done_ = std::async(std::launch::async, [&] { return recovery.run(); });
        ASSERT_TRUE(soon([this] { return destination_machine_.status() == Status::postcopy_active; }));
        for (const char* status : {"postcopy-paused", "postcopy-recover-setup", "postcopy-recover", "postcopy-active"}) {
            source.emplace_back(status);
            if (status != std::string{"postcopy-recover-setup"}) {
                destination.emplace_back(status);
            }
        }
    }
    destination_process_->start_visiting(2);
    source_page_.limits.postcopy_bandwidth = 0;
    expect_done();
    EXPECT_TRUE(soon([this] { return destination_process_->visited_all(); }));
    EXPECT_EQ(destination_page_.postcopy.bytes, missing_at_first_) << "each page was pulled once";
    source.emplace_back("completed");
    destination.emplace_back("completed");
    EXPECT_EQ(taken(source_events_), source);
    EXPECT_EQ(taken(destination_events_), destination);
    expect_same_ram();
}

} // namespace
} // namespace pageferry::engine
