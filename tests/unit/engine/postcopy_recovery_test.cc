// A postcopy that is interrupted, and its recovery: who waits, who goes on, and what is lost (nothing).
#include "tests/unit/engine/postcopy_pair.h"

#include "transport/session/channel.h"

#include <array>
#include <thread>

namespace pageferry::engine {
namespace {

using statemachine::Status;
using testing::PostcopyPair;
using testing::soon;
using testing::taken;
using testing::traced;
namespace session = transport::session;

class PostcopyRecovery : public PostcopyPair {};

constexpr const char* by_user = "Postcopy migration is paused by the user";

TEST_F(PostcopyRecovery, PausedAtTheSourceBothSidesWaitAndAreRecovered) {
    start_slow_postcopy();
    source_->pause();
    const auto paused = source_done_.get();
    ASSERT_FALSE(paused);
    EXPECT_EQ(paused.error().code, ErrorCode::cancelled);
    EXPECT_NE(source_machine_.error().find(by_user), std::string::npos) << source_machine_.error();
    EXPECT_TRUE(soon([this] { return both_paused(); }));
    EXPECT_FALSE(destination_machine_.error().empty());
    recover_to_the_end();
    EXPECT_EQ(taken(source_events_), traced("postcopy_recover", "src"));
    EXPECT_EQ(taken(destination_events_), traced("postcopy_recover", "dst"));
    EXPECT_EQ(source_machine_.error(), "");
    EXPECT_EQ(destination_machine_.error(), "");
    EXPECT_EQ(destination_page_.postcopy.bytes, missing_at_first_) << "each page was pulled once";
    expect_same_ram();
}

TEST_F(PostcopyRecovery, PausedAtTheDestinationBothSidesWaitAndAreRecovered) {
    start_slow_postcopy();
    destination_->pause();
    EXPECT_FALSE(source_done_.get());
    EXPECT_TRUE(soon([this] { return both_paused(); }));
    EXPECT_NE(destination_machine_.error().find(by_user), std::string::npos) << destination_machine_.error();
    EXPECT_FALSE(source_machine_.error().empty());
    recover_to_the_end();
    EXPECT_EQ(taken(source_events_), traced("postcopy_recover", "src"));
    EXPECT_EQ(taken(destination_events_), traced("postcopy_recover", "dst"));
    expect_same_ram();
}

TEST_F(PostcopyRecovery, WhilePausedFaultsOnWhatIsHereAreServedAndOthersWait) {
    start_slow_postcopy();
    const auto fetched = destination_process_->touch(0, 700);
    ASSERT_TRUE(soon([&] { return word(fetched).has_value(); }));
    pause_both();
    destination_process_->drop(0, 700, 1);
    const auto here = destination_process_->touch(0, 700);
    const auto hole = destination_process_->touch(1, pages_of(1) - 1);
    const std::vector<std::size_t> missing{destination_process_->touch(0, touched_of(0) - 1),
                                           destination_process_->touch(0, touched_of(0) - 1),
                                           destination_process_->touch(1, touched_of(1) - 1)};
    EXPECT_TRUE(soon([&] { return word(here) && word(hole); }));
    EXPECT_EQ(word(here), word(fetched));
    EXPECT_EQ(word(hole), 0U);
    ASSERT_TRUE(soon([this] { return destination_page_.postcopy.faults >= 5; })) << "they have been seen";
    for (const std::size_t touch : missing) {
        EXPECT_FALSE(word(touch)) << "nobody has it here";
    }
    // They are the first to be served: in the background it goes as slowly as before.
    auto& recovery = make_recovery(relay_->uri());
    source_done_ = std::async(std::launch::async, [&] { return recovery.run(); });
    for (const std::size_t touch : missing) {
        EXPECT_TRUE(soon([&] { return word(touch).has_value(); }));
        EXPECT_NE(word(touch), 0U);
    }
    EXPECT_GT(missing_bytes(), missing_at_first_ / 4);
    source_page_.limits.postcopy_bandwidth = 0;
    expect_done();
    expect_same_ram();
}

// --- attempts that come to nothing -------------------------------------------------------------------------------------------

TEST_F(PostcopyRecovery, AnAttemptThatDoesNotGetThroughChangesNothing) {
    start_slow_postcopy();
    pause_both();
    taken(destination_events_);
    taken(source_events_);
    const std::vector<std::string> in_vain{"postcopy-recover-setup", "postcopy-paused"};

    std::string dead = testing::listen_on_loopback().second; // and closed again
    expect_attempt_in_vain(make_recovery(dead).run());
    EXPECT_EQ(taken(source_events_), in_vain);

    const auto [listener, never] = testing::listen_on_loopback();
    options_.handshake = std::chrono::milliseconds{300};
    expect_attempt_in_vain(make_recovery(never).run());
    EXPECT_EQ(taken(source_events_), in_vain);
    options_.handshake = std::chrono::seconds{60};

    options_.session.fill(9);
    expect_attempt_in_vain(make_recovery(relay_->uri()).run());
    EXPECT_NE(source_machine_.error().find("another session"), std::string::npos) << source_machine_.error();
    EXPECT_EQ(taken(source_events_), in_vain);
    options_.session.fill(session);

    epoch_ = 0xffffffff; // 0 is the next: that of the first connection
    expect_attempt_in_vain(make_recovery(relay_->uri()).run());
    EXPECT_NE(source_machine_.error().find("later connection"), std::string::npos) << source_machine_.error();
    EXPECT_EQ(taken(source_events_), in_vain);

    EXPECT_EQ(taken(destination_events_), std::vector<std::string>{}) << "strangers, all of them";
    EXPECT_TRUE(soon([this] { return turned_away().size() == 2; }));
    recover_to_the_end();
    expect_same_ram();
}

// A destination that says hello and nothing more.
class Hangs {
public:
    Hangs(const transport::Transport& tcp, const transport::Options& options) : options_(options) {
        auto unbound = options;
        unbound.session = {};
        auto listener = tcp.listen("tcp:127.0.0.1:0", unbound);
        EXPECT_TRUE(listener);
        listener_.emplace(std::move(*listener));
        thread_ = std::thread{[this] { serve(); }};
    }
    ~Hangs() {
        listener_->cancel();
        thread_.join();
    }
    Hangs(const Hangs&) = delete;
    Hangs& operator=(const Hangs&) = delete;
    [[nodiscard]] std::string uri() const { return listener_->uri(); }
    [[nodiscard]] bool greeted() const { return greeted_; }

private:
    void serve() {
        while (!connection_) {
            auto accepted = listener_->accept(std::chrono::milliseconds{100});
            if (!accepted) {
                return;
            }
            if (*accepted) {
                connection_.emplace(std::move(**accepted));
            }
        }
        session::Channel channel{*connection_, options_.dead_peer};
        const auto hello = channel.receive(std::chrono::minutes{1});
        ASSERT_TRUE(hello && *hello && std::holds_alternative<session::Hello>(**hello));
        const auto& said = std::get<session::Hello>(**hello);
        ASSERT_TRUE(channel.send(session::HelloReply{
            .session = said.session, .epoch = said.epoch, .features = said.features, .software = "it hangs"}));
        greeted_ = true;
    }
    transport::Options options_;
    std::optional<transport::Listener> listener_;
    std::optional<transport::Connection> connection_;
    std::atomic<bool> greeted_{false};
    std::thread thread_;
};

TEST_F(PostcopyRecovery, APeerThatHangsAfterItsHelloIsGivenUp) {
    start_slow_postcopy();
    pause_both();
    taken(source_events_);
    const auto patient = options_.dead_peer;
    options_.dead_peer = std::chrono::milliseconds{500};
    const Hangs hangs{*tcp_, options_};
    const auto attempt = make_recovery(hangs.uri()).run();
    expect_attempt_in_vain(attempt);
    EXPECT_EQ(attempt.error().code, ErrorCode::timed_out) << attempt.error().to_string();
    EXPECT_EQ(taken(source_events_), (std::vector<std::string>{"postcopy-recover-setup", "postcopy-recover", "postcopy-paused"}));
    options_.dead_peer = patient;
    recover_to_the_end();
    expect_same_ram();
}

TEST_F(PostcopyRecovery, AnAttemptCanBePausedInItsSetup) {
    start_slow_postcopy();
    pause_both();
    taken(source_events_);
    const auto [listener, never] = testing::listen_on_loopback();
    auto& attempt = make_recovery(never);
    source_done_ = std::async(std::launch::async, [&] { return attempt.run(); });
    EXPECT_EQ(source_done_.wait_for(std::chrono::milliseconds{50}), std::future_status::timeout);
    attempt.pause();
    expect_attempt_in_vain(source_done_.get());
    EXPECT_NE(source_machine_.error().find(by_user), std::string::npos) << source_machine_.error();
    EXPECT_EQ(taken(source_events_), (std::vector<std::string>{"postcopy-recover-setup", "postcopy-paused"}));
    recover_to_the_end();
    expect_same_ram();
}

TEST_F(PostcopyRecovery, AnAttemptCanBePausedWhenItHasConnected) {
    start_slow_postcopy();
    pause_both();
    const Hangs hangs{*tcp_, options_};
    auto& attempt = make_recovery(hangs.uri());
    source_done_ = std::async(std::launch::async, [&] { return attempt.run(); });
    ASSERT_TRUE(soon([this] { return source_machine_.status() == Status::postcopy_recover; }));
    attempt.pause();
    expect_attempt_in_vain(source_done_.get());
    EXPECT_NE(source_machine_.error().find(by_user), std::string::npos) << source_machine_.error();
    recover_to_the_end();
    expect_same_ram();
}

TEST_F(PostcopyRecovery, ARecoveryThatGoesOnCanBePausedOnEitherSide) {
    start_slow_postcopy();
    pause_both();
    for (const bool at_source : {true, false}) {
        auto& attempt = make_recovery(relay_->uri());
        source_done_ = std::async(std::launch::async, [&] { return attempt.run(); });
        ASSERT_TRUE(soon([this] {
            return source_machine_.status() == Status::postcopy_active &&
                   destination_machine_.status() == Status::postcopy_active;
        }));
        at_source ? attempt.pause() : destination_->pause();
        expect_attempt_in_vain(source_done_.get());
        EXPECT_TRUE(soon([this] { return both_paused(); }));
        const auto& machine = at_source ? source_machine_ : destination_machine_;
        EXPECT_NE(machine.error().find(by_user), std::string::npos) << machine.error();
    }
    recover_to_the_end();
    expect_same_ram();
}

// --- more ways to it ---------------------------------------------------------------------------------------------------------

TEST_F(PostcopyRecovery, ItMayBeRecoveredByANewAddressAndByTheOldOne) {
    start_slow_postcopy();
    pause_both();
    const auto more = destination_->listen_also(by(*tcp_, "tcp:127.0.0.1:0"));
    ASSERT_TRUE(more) << more.error().to_string();
    const auto same = destination_->listen_also(by(*tcp_, more->front()));
    ASSERT_TRUE(same) << same.error().to_string();
    EXPECT_EQ(*same, *more) << "it listens there already";
    for (const std::string& uri : {more->front(), relay_->uri(), more->front()}) {
        auto& attempt = make_recovery(uri);
        source_done_ = std::async(std::launch::async, [&] { return attempt.run(); });
        ASSERT_TRUE(soon([this] { return destination_machine_.status() == Status::postcopy_active; })) << uri;
        destination_->pause();
        expect_attempt_in_vain(source_done_.get());
        EXPECT_TRUE(soon([this] { return both_paused(); }));
    }
    const auto other = destination_->listen_also(by(*tcp_, "tcp:127.0.0.1:0"));
    ASSERT_TRUE(other) << other.error().to_string();
    EXPECT_NE(*other, *more);
    expect_attempt_in_vain(make_recovery(more->front()).run());
    source_page_.limits.postcopy_bandwidth = 0;
    const auto done = make_recovery(other->front()).run();
    EXPECT_TRUE(done) << done.error().to_string();
    expect_done();
    expect_same_ram();
}

TEST_F(PostcopyRecovery, AnAddressThatCannotBeHadLeavesTheOthers) {
    start_slow_postcopy();
    pause_both();
    const auto [taken_already, uri] = testing::listen_on_loopback();
    EXPECT_FALSE(destination_->listen_also(by(*tcp_, uri)));
    recover_to_the_end();
    expect_same_ram();
}

// --- another process in the destination's place ------------------------------------------------------------------------------

TEST_F(PostcopyRecovery, ADestinationStartedAnewGoesOnWhereTheOldOneStopped) {
    start_slow_postcopy();
    const auto before = destination_process_->touch(0, 100);
    ASSERT_TRUE(soon([&] { return word(before).has_value(); }));
    const auto waits = destination_process_->touch(1, 100);
    ASSERT_TRUE(soon([&] { return word(waits).has_value(); }));
    source_->pause();
    EXPECT_FALSE(source_done_.get());
    EXPECT_TRUE(soon([this] { return both_paused(); }));
    const auto noted = destination_process_->touch(0, 1000); // seen by the first
    ASSERT_TRUE(soon([this] { return destination_page_.postcopy.faults >= 3; }));
    destination_->cancel();
    destination_done_.wait();
    destination_.reset();
    // Faults that a process has read, and died before it served them: on a page that is missing, and on one that is here.
    destination_process_->drop(0, 100, 1);
    const auto read = destination_process_->touch(0, 1001);
    const auto here = destination_process_->touch(0, 100);
    {
        const auto blocks = testing::again(*destination_process_);
        auto died = means(blocks);
        for (std::size_t block = 0; block < 2; ++block) {
            ASSERT_TRUE(died.faults.arm(block));
        }
        std::array<memory::Fault, 8> faults{};
        std::size_t count = 0;
        EXPECT_TRUE(soon([&] {
            const auto more = died.faults.next(faults, std::chrono::milliseconds{10});
            EXPECT_TRUE(more);
            count += more.value_or(2);
            return count >= 2;
        }));
    }
    const auto unread = destination_process_->touch(0, 1002);
    const std::uint64_t missing = missing_bytes();
    const std::uint64_t pulled = destination_page_.postcopy.bytes;
    make_destination(true, Unsettled{.session = options_.session, .epoch = 0, .ran = true, .postcopy = true});
    start_destination();
    EXPECT_TRUE(soon([&] { return word(here).has_value(); })) << "before the source has come";
    EXPECT_EQ(word(here), word(before));
    EXPECT_FALSE(word(noted));
    EXPECT_FALSE(word(read));
    EXPECT_FALSE(word(unread));
    recover_to_the_end();
    EXPECT_TRUE(soon([&] { return word(noted) && word(read) && word(unread); }));
    EXPECT_EQ(destination_page_.postcopy.bytes, pulled + missing) << "what the old one had is not pulled again";
    EXPECT_EQ(taken(destination_events_), traced("postcopy_recover", "dst"));
    expect_same_ram();
}

// It died before the permit came: the guest has not run, and pages are missing.
TEST_F(PostcopyRecovery, ADestinationStartedAnewRunsTheGuestWhenThePermitComes) {
    source_guest_->on_commit = [this] {
        destination_->cancel();
        return Result<void>{};
    };
    fill_source();
    leave_all_for_postcopy();
    source_page_.limits.postcopy_bandwidth = 64 << 10;
    start_destination();
    make_source(relay_->uri());
    EXPECT_FALSE(source_->run());
    destination_done_.wait();
    EXPECT_EQ(runs_, 0);
    ASSERT_TRUE(both_paused()) << "the source has sent its permit, for all it knows";
    make_destination(true, Unsettled{.session = options_.session, .epoch = 0, .ran = false, .postcopy = true});
    start_destination();
    recover_to_the_end();
    expect_same_ram();
}

} // namespace
} // namespace pageferry::engine
