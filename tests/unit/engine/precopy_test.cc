// Precopy from end to end in one process: real files, real dirty tracking of a child process, the real TCP plugin.
#include "engine/destination.h"
#include "engine/recovery.h"
#include "engine/source.h"
#include "memory/extent.h"
#include "tests/unit/engine/fake_guests.h"
#include "transport/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <future>

namespace pageferry::engine {
namespace {

using memory::testing::HypervisorProcess;
using statemachine::Side;
using statemachine::Status;
using testing::again;
using testing::FakeDestinationGuest;
using testing::FakeSourceGuest;

constexpr std::uint64_t page = 4096;
const std::vector<memory::testing::BlockSpec> two_blocks{{.name = "ram0", .pages = 2048}, {.name = "ram1", .pages = 300}};

bool identical(const HypervisorProcess& a, const HypervisorProcess& b) {
    return std::ranges::equal(a.blocks(), b.blocks(), [](const auto* x, const auto* y) {
        return x->info().length == y->info().length && std::memcmp(x->alias(), y->alias(), x->info().length) == 0;
    });
}

std::vector<std::string> taken(statemachine::EventQueue& events) {
    std::vector<std::string> names;
    while (auto event = events.take()) {
        names.emplace_back(statemachine::name_of(event->to));
    }
    return names;
}

class Precopy : public ::testing::Test {
protected:
    void SetUp() override {
        auto loaded = transport::load("tcp");
        ASSERT_TRUE(loaded) << loaded.error().to_string();
        transport_ = *loaded;
        options_.session.fill(7);
        options_.dead_peer = std::chrono::seconds{20};
        make_destination();
    }
    void TearDown() override {
        if (destination_done_.valid()) {
            destination_->cancel();
            destination_done_.wait();
        }
    }

    void make_destination(const std::vector<memory::testing::BlockSpec>& specs = two_blocks) {
        destination_process_ = std::make_unique<HypervisorProcess>(page, specs);
        auto options = options_;
        options.session = {};
        destination_ = std::make_unique<Destination>(
            DestinationConfig{.blocks = again(*destination_process_),
                              .reception = {.candidates = by_tcp("tcp:127.0.0.1:0"),
                                            .options = options,
                                            .turned_away = [this](const Error& error) { turned_away_.push_back(error); }},
                              .page = &destination_page_},
            destination_guest_, destination_machine_);
        auto uri = destination_->listen();
        ASSERT_TRUE(uri) << uri.error().to_string();
        uri_ = uri->front();
        ASSERT_TRUE(destination_machine_.transition(Status::setup, statemachine::Cause::requested));
    }
    void start_destination() {
        destination_done_ = std::async(std::launch::async, [this] { return destination_->run(); });
    }
    // A source of its own machine: each attempt is a new one, as each has a mover of its own.
    struct Attempt {
        statemachine::EventQueue events;
        statemachine::Machine machine{Side::source, events};
        ControlPage page;
        std::unique_ptr<Source> source;
    };
    std::unique_ptr<Attempt> make_source(HypervisorProcess& process, bool pause = false) {
        auto attempt = std::make_unique<Attempt>();
        auto tracker = memory::make_dirty_tracker(process.handles());
        EXPECT_TRUE(tracker) << tracker.error().to_string();
        attempt->source = std::make_unique<Source>(SourceConfig{.blocks = again(process),
                                                                .tracker = std::move(*tracker),
                                                                .peer = {.candidates = by_tcp(uri_), .options = options_},
                                                                .pause_before_switchover = pause,
                                                                .page = &attempt->page},
                                                   source_guest_, attempt->machine);
        EXPECT_TRUE(attempt->machine.transition(Status::setup, statemachine::Cause::requested));
        return attempt;
    }

    std::vector<Candidate> by_tcp(const std::string& uri) { return {Candidate{.uri = uri, .transport = *transport_}}; }

    std::optional<transport::Transport> transport_;
    transport::Options options_;
    HypervisorProcess source_process_{page, two_blocks};
    FakeSourceGuest source_guest_{source_process_};
    std::unique_ptr<HypervisorProcess> destination_process_;
    FakeDestinationGuest destination_guest_;
    ControlPage destination_page_;
    statemachine::EventQueue destination_events_;
    statemachine::Machine destination_machine_{Side::destination, destination_events_};
    std::unique_ptr<Destination> destination_;
    std::vector<Error> turned_away_;
    std::string uri_;
    std::future<Result<void>> destination_done_;
};

TEST_F(Precopy, MovesAGuestThatStandsStill) {
    source_process_.write(0, {0, 1, 2, 500, 2047});
    source_process_.write(1, {0, 299});
    destination_process_->write(0, {2, 100, 101}); // a ROM's shadow: 100 and 101 must go
    destination_process_->write(1, {7});
    start_destination();
    const auto attempt = make_source(source_process_);
    const auto done = attempt->source->run();
    ASSERT_TRUE(done) << done.error().to_string();
    ASSERT_TRUE(destination_done_.get());
    // What was never touched was never sent, and is not there (comparing the two makes it so).
    EXPECT_LT(attempt->page.progress.ram_transferred, 100 * page);
    const auto data = memory::data_extents(destination_process_->block(0));
    ASSERT_TRUE(data);
    EXPECT_LE(memory::total_length(*data), 10 * page);
    EXPECT_TRUE(identical(source_process_, *destination_process_));
    EXPECT_EQ(destination_guest_.state, testing::device_state);
    EXPECT_TRUE(destination_guest_.ran_running);
    EXPECT_EQ(taken(attempt->events), (std::vector<std::string>{"setup", "active", "device", "completed"}));
    EXPECT_EQ(taken(destination_events_), (std::vector<std::string>{"setup", "active", "completed"}));
}

TEST_F(Precopy, MovesAGuestThatWrites) {
    for (std::uint64_t p = 0; p < 2048; p += 3) {
        source_process_.write(0, {p});
    }
    source_guest_.writing = true;
    source_guest_.on_save = {11, 12, 2000};
    source_process_.start_writing(42);
    start_destination();
    bool final_when_loaded = false;
    destination_guest_.on_load = [&] { final_when_loaded = identical(source_process_, *destination_process_); };
    const auto attempt = make_source(source_process_);
    attempt->page.limits.downtime_limit_ms = 20'000; // it writes as fast as it can
    const auto done = attempt->source->run();
    ASSERT_TRUE(done) << done.error().to_string();
    ASSERT_TRUE(destination_done_.get());
    EXPECT_TRUE(final_when_loaded) << "loading device state reads guest RAM";
    EXPECT_TRUE(identical(source_process_, *destination_process_));
    EXPECT_GT(attempt->page.progress.dirty_sync_count, 1U);
}

TEST_F(Precopy, WaitsForTheUserBeforeTheSwitchover) {
    source_process_.write(0, {1, 2, 3});
    source_guest_.may_continue = false;
    start_destination();
    const auto attempt = make_source(source_process_, true);
    auto running = std::async(std::launch::async, [&] { return attempt->source->run(); });
    while (attempt->machine.status() != Status::pre_switchover) {
        ASSERT_NE(running.wait_for(std::chrono::milliseconds{1}), std::future_status::ready);
    }
    source_process_.write(0, {3, 4}); // a storage job, while the user is asked
    EXPECT_FALSE(source_guest_.committed);
    source_guest_.may_continue = true;
    const auto done = running.get();
    ASSERT_TRUE(done) << done.error().to_string();
    ASSERT_TRUE(destination_done_.get());
    EXPECT_TRUE(identical(source_process_, *destination_process_));
    EXPECT_EQ(taken(attempt->events), (std::vector<std::string>{"setup", "active", "pre-switchover", "device", "completed"}));
}

TEST_F(Precopy, RamTablesThatDifferAreNamedAndChangeNothing) {
    HypervisorProcess other{page, {{.name = "ram0", .pages = 2048}, {.name = "ram1", .pages = 301}}};
    start_destination();
    const auto wrong = make_source(other);
    const auto refused = wrong->source->run();
    ASSERT_FALSE(refused);
    const auto text = refused.error().to_string();
    EXPECT_NE(text.find("ram1"), std::string::npos) << text;
    EXPECT_NE(text.find(std::to_string(300 * page)), std::string::npos) << text;
    EXPECT_NE(text.find(std::to_string(301 * page)), std::string::npos) << text;
    EXPECT_EQ(wrong->machine.status(), Status::failing);
    EXPECT_EQ(destination_machine_.status(), Status::setup) << "it goes on listening";

    source_process_.write(0, {5});
    const auto right = make_source(source_process_);
    const auto done = right->source->run();
    ASSERT_TRUE(done) << done.error().to_string();
    ASSERT_TRUE(destination_done_.get());
    EXPECT_TRUE(identical(source_process_, *destination_process_));
}

TEST_F(Precopy, CancelledInTheMiddleItMovesAtTheNextAttempt) {
    std::vector<std::uint64_t> all(2048);
    std::ranges::generate(all, [n = 0ULL]() mutable { return n++; });
    source_process_.write(0, all);
    start_destination();
    auto attempt = make_source(source_process_);
    attempt->page.limits.max_bandwidth = 1 << 20; // 8 MiB take far longer than the test needs to cancel
    auto running = std::async(std::launch::async, [&] { return attempt->source->run(); });
    while (attempt->page.progress.ram_transferred == 0) {
        ASSERT_NE(running.wait_for(std::chrono::milliseconds{1}), std::future_status::ready);
    }
    attempt->source->cancel();
    const auto cancelled = running.get();
    ASSERT_FALSE(cancelled);
    EXPECT_EQ(cancelled.error().code, ErrorCode::cancelled);
    EXPECT_EQ(attempt->machine.status(), Status::cancelling);
    const auto at_destination = destination_done_.get();
    ASSERT_FALSE(at_destination);
    EXPECT_EQ(destination_machine_.status(), Status::failed);
    EXPECT_FALSE(destination_guest_.ran);

    // The child writes on, untracked; then it moves, to a fresh destination.
    source_process_.write(0, {1, 2, 3});
    statemachine::Machine fresh{Side::destination, destination_events_};
    HypervisorProcess fresh_process{page, two_blocks};
    FakeDestinationGuest fresh_guest;
    Destination second{DestinationConfig{.blocks = again(fresh_process),
                                         .reception = {.candidates = by_tcp("tcp:127.0.0.1:0")},
                                         .page = &destination_page_},
                       fresh_guest, fresh};
    uri_ = second.listen().value().front();
    ASSERT_TRUE(fresh.transition(Status::setup, statemachine::Cause::requested));
    destination_done_ = std::async(std::launch::async, [&] { return second.run(); });
    const auto again_attempt = make_source(source_process_);
    const auto done = again_attempt->source->run();
    ASSERT_TRUE(done) << done.error().to_string();
    ASSERT_TRUE(destination_done_.get());
    EXPECT_TRUE(identical(source_process_, fresh_process));
}

TEST_F(Precopy, ADestinationThatGivesUpLeavesTheSourceFailing) {
    source_process_.write(0, {1});
    start_destination();
    const auto attempt = make_source(source_process_);
    source_guest_.on_commit = [] { return Result<void>{}; };
    destination_guest_.on_load = [this] { destination_->cancel(); };
    const auto failed = attempt->source->run();
    ASSERT_FALSE(failed);
    EXPECT_EQ(attempt->machine.status(), Status::failing);
    EXPECT_FALSE(source_guest_.committed);
    EXPECT_FALSE(destination_done_.get());
    EXPECT_FALSE(destination_guest_.ran);
}

TEST_F(Precopy, ACommitThatIsRefusedSendsNoPermit) {
    source_process_.write(0, {1});
    start_destination();
    const auto attempt = make_source(source_process_);
    source_guest_.on_commit = [] { return std::unexpected(make_error(ErrorCode::cancelled, "commit", "", "cancelled")); };
    EXPECT_FALSE(attempt->source->run());
    EXPECT_EQ(attempt->machine.status(), Status::failing);
    EXPECT_FALSE(destination_done_.get());
    EXPECT_FALSE(destination_guest_.ran);
    EXPECT_EQ(destination_machine_.status(), Status::failed) << "the source said that it failed: that is certain";
}

TEST_F(Precopy, AHypervisorThatDoesNotRunTheGuestGivesItBack) {
    source_process_.write(0, {1});
    start_destination();
    const auto attempt = make_source(source_process_);
    destination_guest_.on_run = [] { return std::unexpected(make_error(ErrorCode::io, "cont", "QEMU", "a disk is locked")); };
    const auto failed = attempt->source->run();
    ASSERT_FALSE(failed);
    EXPECT_NE(failed.error().to_string().find("a disk is locked"), std::string::npos) << failed.error().to_string();
    EXPECT_EQ(attempt->machine.status(), Status::failing) << "the destination said that it does not run the guest";
    EXPECT_FALSE(destination_done_.get());
    EXPECT_EQ(destination_machine_.status(), Status::failed);
}

// The permit has arrived; the connection ends before the destination can say that it runs. It runs there, and the source learns
// it when it connects again; until then it stays paused.
TEST_F(Precopy, LostAfterThePermitItIsSettledByTheNextConnection) {
    source_process_.write(0, {1});
    start_destination();
    const auto attempt = make_source(source_process_);
    int runs = 0;
    destination_guest_.on_run = [&] {
        ++runs;
        attempt->source->cancel();
        return Result<void>{};
    };
    EXPECT_FALSE(attempt->source->run());
    EXPECT_EQ(attempt->machine.status(), Status::postcopy_paused);

    const auto recover = [&](std::uint32_t epoch, std::uint8_t session) {
        auto options = options_;
        options.epoch = epoch;
        options.session.fill(session);
        statemachine::Machine machine{Side::source, attempt->events, Status::postcopy_recover_setup};
        ControlPage recovery_page;
        Recovery recovery{RecoveryConfig{.blocks = again(source_process_),
                                         .peer = {.candidates = by_tcp(uri_), .options = options},
                                         .page = &recovery_page},
                          machine};
        const auto done = recovery.run();
        return std::pair{done.has_value(), machine.status()};
    };
    EXPECT_EQ(recover(1, 9), std::pair(false, Status::postcopy_paused)) << "a wrong session";
    EXPECT_EQ(recover(0, 7), std::pair(false, Status::postcopy_paused)) << "an old connection's epoch";
    EXPECT_EQ(recover(1, 7), std::pair(true, Status::completed));
    EXPECT_TRUE(destination_done_.get());
    EXPECT_EQ(runs, 1) << "permitted twice, run once";
    EXPECT_EQ(destination_machine_.status(), Status::completed);
    EXPECT_EQ(taken(destination_events_), (std::vector<std::string>{"setup", "active", "completed"}));
}

// The permit was lost, and with it the destination's process: the one started in its place waits for the same session, and runs
// the guest when the permit comes again.
TEST_F(Precopy, ADestinationStartedAnewRunsTheGuestWhenThePermitComesAgain) {
    auto options = options_;
    options.session = {};
    statemachine::EventQueue events;
    statemachine::Machine machine{Side::destination, events, Status::postcopy_paused};
    Destination anew{DestinationConfig{.blocks = again(*destination_process_),
                                       .reception = {.candidates = by_tcp("tcp:127.0.0.1:0"), .options = options},
                                       .page = &destination_page_,
                                       .unsettled = Unsettled{.session = options_.session, .epoch = 3, .ran = false}},
                     destination_guest_, machine};
    uri_ = anew.listen().value().front();
    auto done = std::async(std::launch::async, [&] { return anew.run(); });
    options = options_;
    options.epoch = 4;
    statemachine::EventQueue source_events;
    statemachine::Machine source_machine{Side::source, source_events, Status::postcopy_recover_setup};
    ControlPage recovery_page;
    Recovery recovery{RecoveryConfig{.blocks = again(source_process_),
                                     .peer = {.candidates = by_tcp(uri_), .options = options},
                                     .running = false,
                                     .page = &recovery_page},
                      source_machine};
    const auto recovered = recovery.run();
    EXPECT_TRUE(recovered) << recovered.error().to_string();
    EXPECT_TRUE(done.get());
    EXPECT_TRUE(destination_guest_.ran);
    EXPECT_FALSE(destination_guest_.ran_running) << "it stood still at the source";
    EXPECT_EQ(taken(source_events), (std::vector<std::string>{"postcopy-recover", "postcopy-active", "completed"}));
    EXPECT_EQ(taken(events), (std::vector<std::string>{"postcopy-recover", "postcopy-active", "completed"}));
}

} // namespace
} // namespace pageferry::engine
