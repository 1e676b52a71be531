// From one transport to the next: a source that tries several, a destination that listens on several. The transports that fail
// are TCP with one function replaced; everything else is real.
#include "engine/destination.h"
#include "engine/recovery.h"
#include "engine/source.h"
#include "tests/unit/engine/failing_transport.h"
#include "tests/unit/engine/fake_guests.h"
#include "transport/loader.h"

#include <gtest/gtest.h>

#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <netinet/in.h>

namespace pageferry::engine {
namespace {

using memory::testing::HypervisorProcess;
using statemachine::Side;
using statemachine::Status;
using testing::again;
using testing::changed_tcp;
using testing::FakeDestinationGuest;
using testing::FakeSourceGuest;

constexpr std::uint64_t page = 4096;
const std::vector<memory::testing::BlockSpec> one_block{{.name = "ram0", .pages = 64}};

Candidate missing(const std::string& uri) {
    return {.uri = uri, .transport = std::unexpected(make_error(ErrorCode::not_found, "load", uri, "the plugin is missing"))};
}

class Fallback : public ::testing::Test {
protected:
    void SetUp() override {
        auto loaded = transport::load("tcp");
        ASSERT_TRUE(loaded) << loaded.error().to_string();
        tcp_ = *loaded;
        testing::opened = 0;
        options_.session.fill(7);
        options_.dead_peer = std::chrono::seconds{20};
        source_process_.write(0, {0, 1, 63});
        destination_process_.write(0, {5});
    }
    void TearDown() override {
        if (destination_done_.valid()) {
            destination_->cancel();
            destination_done_.wait();
        }
    }

    [[nodiscard]] transport::Transport counted() const { // TCP whose open() is counted
        return changed_tcp(*tcp_, [](pf_transport&) {});
    }
    [[nodiscard]] transport::Transport changed(const std::function<void(pf_transport&)>& change) const {
        return changed_tcp(*tcp_, change);
    }

    Result<std::vector<std::string>> listen(std::vector<Candidate> candidates) {
        auto options = options_;
        options.session = {};
        destination_ = std::make_unique<Destination>(
            DestinationConfig{.blocks = again(destination_process_),
                              .reception = {.candidates = std::move(candidates),
                                            .options = options,
                                            .tell = [this](const TransportUse& use) { destination_told_.push_back(use); },
                                            .turned_away = [this](const Error& error) { turned_away_.push_back(error); }},
                              .page = &destination_page_},
            destination_guest_, destination_machine_);
        auto uris = destination_->listen();
        if (uris) {
            EXPECT_TRUE(destination_machine_.transition(Status::setup, statemachine::Cause::requested));
            destination_done_ = std::async(std::launch::async, [this] { return destination_->run(); });
        }
        return uris;
    }
    std::string listen() {
        const auto uris = listen({{.uri = "tcp:127.0.0.1:0", .transport = *tcp_}});
        EXPECT_TRUE(uris) << uris.error().to_string();
        return uris->front();
    }

    Source& source(std::vector<Candidate> candidates, HypervisorProcess& process) {
        auto tracker = memory::make_dirty_tracker(process.handles());
        EXPECT_TRUE(tracker) << tracker.error().to_string();
        source_ = std::make_unique<Source>(
            SourceConfig{.blocks = again(process),
                         .tracker = std::move(*tracker),
                         .peer = {.candidates = std::move(candidates),
                                  .options = options_,
                                  .tell = [this](const TransportUse& use) { source_told_.push_back(use); }},
                         .page = &source_page_},
            source_guest_, source_machine_);
        EXPECT_TRUE(source_machine_.transition(Status::setup, statemachine::Cause::requested));
        return *source_;
    }
    Result<void> migrate(std::vector<Candidate> candidates) { return source(std::move(candidates), source_process_).run(); }

    // The first of two could not be used, the second is TCP and moves the guest.
    void expect_moved_by_the_second(const Result<void>& done, const std::string& phase, std::string_view reason) {
        ASSERT_TRUE(done) << done.error().to_string();
        ASSERT_TRUE(destination_done_.get());
        EXPECT_TRUE(destination_guest_.ran);
        const auto& from = source_process_.block(0);
        EXPECT_EQ(std::memcmp(from.alias(), destination_process_.block(0).alias(), from.info().length), 0);
        ASSERT_EQ(source_told_.size(), 2U);
        EXPECT_FALSE(source_told_.front().connected);
        const TransportUse& use = source_told_.back();
        EXPECT_TRUE(use.connected);
        EXPECT_EQ(use.candidate, 1U);
        EXPECT_EQ(use.name, "tcp");
        EXPECT_EQ(use.lanes, options_.lanes);
        EXPECT_NE(use.connection.find("127.0.0.1"), std::string::npos) << use.connection;
        ASSERT_EQ(use.attempts.size(), 1U);
        EXPECT_EQ(use.attempts.front().phase, phase);
        EXPECT_NE(use.attempts.front().error.to_string().find(reason), std::string::npos)
            << use.attempts.front().error.to_string();
    }

    std::optional<transport::Transport> tcp_;
    transport::Options options_;
    HypervisorProcess source_process_{page, one_block};
    HypervisorProcess destination_process_{page, one_block};
    FakeSourceGuest source_guest_{source_process_};
    FakeDestinationGuest destination_guest_;
    ControlPage source_page_;
    ControlPage destination_page_;
    statemachine::EventQueue source_events_;
    statemachine::EventQueue destination_events_;
    statemachine::Machine source_machine_{Side::source, source_events_};
    statemachine::Machine destination_machine_{Side::destination, destination_events_};
    std::unique_ptr<Source> source_;
    std::unique_ptr<Destination> destination_;
    std::vector<TransportUse> source_told_;
    std::vector<TransportUse> destination_told_;
    std::vector<Error> turned_away_; // read when the destination has ended
    std::future<Result<void>> destination_done_;
};

TEST_F(Fallback, FromAPluginThatIsMissing) {
    const auto uri = listen();
    expect_moved_by_the_second(migrate({missing("rdma:h:1"), {.uri = uri, .transport = *tcp_}}), "load", "the plugin is missing");
}

TEST_F(Fallback, FromADeviceThatIsNotThere) {
    const auto uri = listen();
    expect_moved_by_the_second(migrate({{.uri = "tcp:127.0.0.1:1", .transport = changed(testing::fails_to_open<PF_UNSUPPORTED>)},
                                        {.uri = uri, .transport = *tcp_}}),
                               "open", "there is no such device");
}

TEST_F(Fallback, FromAPhaseOfConnect) {
    const auto uri = listen();
    expect_moved_by_the_second(migrate({{.uri = uri, .transport = changed(testing::fails_to_connect<PF_UNREACHABLE>)},
                                        {.uri = uri, .transport = *tcp_}}),
                               "resolving route", "there is no route");
}

TEST_F(Fallback, FromAPortWhereNobodyListens) {
    const auto uri = listen();
    expect_moved_by_the_second(migrate({{.uri = "tcp:127.0.0.1:1", .transport = *tcp_}, {.uri = uri, .transport = *tcp_}}),
                               "connecting", "onnection refused");
}

// The peers have met, and the destination has heard a hello: it goes on listening.
TEST_F(Fallback, FromMemoryThatCannotBeRegisteredAtTheSource) {
    const auto uri = listen();
    expect_moved_by_the_second(migrate({{.uri = uri, .transport = changed(testing::fails_to_add_memory<PF_RESOURCES>)},
                                        {.uri = uri, .transport = *tcp_}}),
                               "memory", "too little memory may be locked");
    ASSERT_EQ(turned_away_.size(), 1U);
    EXPECT_NE(turned_away_[0].to_string().find("too little memory may be locked"), std::string::npos)
        << turned_away_[0].to_string();
    EXPECT_EQ(destination_told_.size(), 1U);
}

TEST_F(Fallback, FromMemoryThatCannotBeRegisteredAtTheDestination) {
    const auto uris = listen({{.uri = "tcp:127.0.0.1:0", .transport = changed(testing::fails_to_add_memory<PF_PERMISSION>)},
                              {.uri = "tcp:127.0.0.1:0", .transport = *tcp_}});
    ASSERT_TRUE(uris);
    ASSERT_EQ(uris->size(), 2U);
    expect_moved_by_the_second(migrate({{.uri = (*uris)[0], .transport = *tcp_}, {.uri = (*uris)[1], .transport = *tcp_}}),
                               "memory", "too little memory may be locked");
    ASSERT_EQ(destination_told_.size(), 1U);
    EXPECT_EQ(destination_told_[0].candidate, 1U);
    EXPECT_EQ(destination_told_[0].uri, (*uris)[1]);
}

TEST_F(Fallback, FromAPathOnWhichNothingComesThrough) {
    const auto uri = listen();
    expect_moved_by_the_second(
        migrate({{.uri = uri, .transport = changed(testing::fails_to_send<PF_IO>)}, {.uri = uri, .transport = *tcp_}}), "hello",
        "the path is dead");
}

TEST_F(Fallback, NotFromWhatIsWrongWithUs) {
    const auto uri = listen();
    const auto done = migrate(
        {{.uri = uri, .transport = changed(testing::fails_to_add_memory<PF_INTERNAL>)}, {.uri = uri, .transport = counted()}});
    ASSERT_FALSE(done);
    EXPECT_EQ(testing::opened, 1);
    EXPECT_EQ(source_machine_.status(), Status::failing);
}

TEST_F(Fallback, NotFromAPeerThatRefusesTheGuest) {
    const auto uri = listen();
    HypervisorProcess larger{page, {{.name = "ram0", .pages = 65}}};
    const auto done = source({{.uri = uri, .transport = counted()}, {.uri = uri, .transport = counted()}}, larger).run();
    ASSERT_FALSE(done);
    EXPECT_NE(done.error().to_string().find("ram0"), std::string::npos) << done.error().to_string();
    EXPECT_EQ(testing::opened, 1) << "by another transport it would be the same";
    ASSERT_EQ(source_told_.size(), 1U);
    EXPECT_FALSE(source_told_[0].connected);
}

TEST_F(Fallback, ASingleTransportsErrorStaysAsItIs) {
    const auto alone = migrate({{.uri = "tcp:127.0.0.1:1", .transport = *tcp_}});
    ASSERT_FALSE(alone);
    EXPECT_EQ(alone.error().to_string().find("tried before"), std::string::npos) << alone.error().to_string();
    EXPECT_NE(alone.error().native, 0);
    EXPECT_TRUE(source_told_.empty());
    EXPECT_EQ(source_machine_.status(), Status::failing);
}

TEST_F(Fallback, WhenNoneIsLeftTheErrorTellsOfAll) {
    const auto none = migrate({missing("rdma:h:1"),
                               {.uri = "tcp:127.0.0.1:2", .transport = changed(testing::fails_to_open<PF_UNSUPPORTED>)},
                               {.uri = "tcp:127.0.0.1:1", .transport = *tcp_}});
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code, ErrorCode::refused);
    const std::string text = none.error().to_string();
    EXPECT_LT(text.find("127.0.0.1:1"), text.find("tried before: ")) << text;
    EXPECT_TRUE(text.ends_with("tried before: rdma:h:1: the plugin is missing; tcp:127.0.0.1:2: there is no such device"))
        << text;
    ASSERT_EQ(source_told_.size(), 3U);
    EXPECT_EQ(source_told_.back().attempts.size(), 3U);
    EXPECT_EQ(source_machine_.error(), text);
}

// A peer that the kernel connects and that never answers: cancelled in the middle, nothing else is tried.
TEST_F(Fallback, CancelEndsItAndTriesNoFurther) {
    const Fd silent{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    ASSERT_EQ(::bind(silent.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
    ASSERT_EQ(::listen(silent.get(), 4), 0);
    ASSERT_EQ(::getsockname(silent.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
    const std::string uri = "tcp:127.0.0.1:" + std::to_string(ntohs(address.sin_port));

    Source& tried = source({{.uri = uri, .transport = counted()}, {.uri = uri, .transport = counted()}}, source_process_);
    auto done = std::async(std::launch::async, [&] { return tried.run(); });
    while (testing::opened == 0) {
        ASSERT_NE(done.wait_for(std::chrono::milliseconds{1}), std::future_status::ready);
    }
    tried.cancel();
    const auto cancelled = done.get();
    ASSERT_FALSE(cancelled);
    EXPECT_EQ(cancelled.error().code, ErrorCode::cancelled);
    EXPECT_EQ(testing::opened, 1);
    EXPECT_EQ(source_machine_.status(), Status::cancelling);
}

TEST_F(Fallback, TheDestinationListensWhereItCan) {
    const auto uris = listen({missing("rdma:0:1"),
                              {.uri = "tcp:127.0.0.1:0", .transport = *tcp_},
                              {.uri = "tcp:127.0.0.1:9", .transport = changed(testing::fails_to_listen<PF_RESOURCES>)}});
    ASSERT_TRUE(uris) << uris.error().to_string();
    ASSERT_EQ(uris->size(), 1U);
    ASSERT_EQ(destination_->attempts().size(), 2U);
    EXPECT_EQ(destination_->attempts()[0].phase, "load");
    EXPECT_EQ(destination_->attempts()[1].phase, "listen");
    EXPECT_EQ(destination_->attempts()[1].uri, "tcp:127.0.0.1:9");
    ASSERT_TRUE(migrate({{.uri = uris->front(), .transport = *tcp_}}));
    ASSERT_TRUE(destination_done_.get());
    ASSERT_EQ(destination_told_.size(), 1U);
    EXPECT_EQ(destination_told_[0].candidate, 1U);
    EXPECT_EQ(destination_told_[0].attempts.size(), 2U);
    ASSERT_EQ(source_told_.size(), 1U);
    EXPECT_TRUE(source_told_[0].attempts.empty());
}

TEST_F(Fallback, ADestinationThatCanListenNowhereSaysWhy) {
    const auto none =
        listen({missing("rdma:0:1"), {.uri = "tcp:127.0.0.1:9", .transport = changed(testing::fails_to_listen<PF_RESOURCES>)}});
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code, ErrorCode::resources);
    EXPECT_EQ(none.error().reason, "there is no device to listen on; tried before: rdma:0:1: the plugin is missing");
}

// Both attempts of the recovery reach the destination: each with an epoch of its own, or the second would be an old connection.
TEST_F(Fallback, ARecoveryFallsBackToo) {
    const auto uris = listen({{.uri = "tcp:127.0.0.1:0", .transport = *tcp_}});
    ASSERT_TRUE(uris);
    Source& moving = source({{.uri = uris->front(), .transport = *tcp_}}, source_process_);
    destination_guest_.on_run = [&] {
        moving.cancel();
        return Result<void>{};
    };
    EXPECT_FALSE(moving.run());
    ASSERT_EQ(source_machine_.status(), Status::postcopy_paused);
    auto options = options_;
    options.epoch = 1;
    statemachine::Machine machine{Side::source, source_events_, Status::postcopy_recover_setup};
    Recovery recovery{
        RecoveryConfig{.blocks = again(source_process_),
                       .peer = {.candidates = {{.uri = uris->front(), .transport = changed(testing::fails_to_receive<PF_IO>)},
                                               {.uri = uris->front(), .transport = *tcp_}},
                                .options = options,
                                .tell = [this](const TransportUse& use) { source_told_.push_back(use); }},
                       .page = &source_page_},
        machine};
    const auto done = recovery.run();
    ASSERT_TRUE(done) << done.error().to_string();
    ASSERT_TRUE(destination_done_.get());
    EXPECT_EQ(machine.status(), Status::completed);
    EXPECT_EQ(source_told_.back().candidate, 1U);
}

} // namespace
} // namespace pageferry::engine
