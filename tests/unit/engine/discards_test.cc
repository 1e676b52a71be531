// Discards of guest RAM while it is pushed: when a transport hears of them. It is TCP that says it pins memory, and writes down
// what it is told.
#include "engine/destination.h"
#include "engine/source.h"
#include "tests/unit/engine/failing_transport.h"
#include "tests/unit/engine/fake_guests.h"
#include "transport/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <future>

namespace pageferry::engine {
namespace {

using memory::testing::HypervisorProcess;
using statemachine::Side;
using statemachine::Status;
using testing::again;

constexpr std::uint64_t page = 4096;
const std::vector<memory::testing::BlockSpec> one_block{{.name = "ram0", .pages = 64}};

// What the transport was told, a letter each: p a push, f a fence, r memory_replaced(). One test at a time.
std::string told;                         // NOLINT(cert-err58-cpp): an empty string
std::function<void(char)> after_the_call; // NOLINT(cert-err58-cpp): an empty function

void write_down(char what) {
    if (told.empty() || told.back() != what || what == 'r') {
        told += what;
    }
    if (after_the_call) {
        after_the_call(what);
    }
}

void pins(pf_transport& table) {
    table.traits |= PF_TRAIT_PINS_MEMORY;
    table.push = [](pf_connection* connection, const pf_extent* extents, size_t count, size_t* accepted, pf_error* error) {
        const int status = testing::real_tcp->push(connection, extents, count, accepted, error);
        write_down('p');
        return status;
    };
    table.fence = [](pf_connection* connection, int64_t timeout_ms, pf_error* error) {
        const int status = testing::real_tcp->fence(connection, timeout_ms, error);
        write_down('f');
        return status;
    };
    table.memory_replaced = [](pf_connection* connection, pf_error* error) {
        const int status = testing::real_tcp->memory_replaced(connection, error);
        write_down('r');
        return status;
    };
}

class Discards : public ::testing::Test {
protected:
    void SetUp() override {
        auto loaded = transport::load("tcp");
        ASSERT_TRUE(loaded) << loaded.error().to_string();
        tcp_ = *loaded;
        told.clear();
        options_.session.fill(7);
        options_.dead_peer = std::chrono::seconds{20};
        source_process_.write(0, {0, 1, 2, 63});
        auto options = options_;
        options.session = {};
        destination_ = std::make_unique<Destination>(
            DestinationConfig{.blocks = again(destination_process_),
                              .reception = {.candidates = {{.uri = "tcp:127.0.0.1:0", .transport = *tcp_}}, .options = options},
                              .page = &destination_page_},
            destination_guest_, destination_machine_);
        const auto uris = destination_->listen();
        ASSERT_TRUE(uris) << uris.error().to_string();
        uri_ = uris->front();
        EXPECT_TRUE(destination_machine_.transition(Status::setup, statemachine::Cause::requested));
        destination_done_ = std::async(std::launch::async, [this] { return destination_->run(); });
    }
    void TearDown() override {
        after_the_call = {};
        if (destination_done_.valid()) {
            destination_->cancel();
            destination_done_.wait();
        }
    }
    [[nodiscard]] Candidate pinning() const { return {.uri = uri_, .transport = testing::changed_tcp(*tcp_, pins)}; }

    Result<void> migrate(std::vector<Candidate> candidates, std::optional<Error> no_pinning = {}) {
        auto tracker = memory::make_dirty_tracker(source_process_.handles());
        EXPECT_TRUE(tracker) << tracker.error().to_string();
        Source source{SourceConfig{.blocks = again(source_process_),
                                   .tracker = std::move(*tracker),
                                   .peer = {.candidates = std::move(candidates),
                                            .options = options_,
                                            .no_pinning = std::move(no_pinning),
                                            .tell = [this](const TransportUse& use) { use_ = use; }},
                                   .page = &source_page_,
                                   .discards = &counters_},
                      source_guest_, source_machine_};
        EXPECT_TRUE(source_machine_.transition(Status::setup, statemachine::Cause::requested));
        return source.run();
    }
    void expect_moved(const Result<void>& done) {
        ASSERT_TRUE(done) << done.error().to_string();
        ASSERT_TRUE(destination_done_.get());
        const auto& from = source_process_.block(0);
        EXPECT_EQ(std::memcmp(from.alias(), destination_process_.block(0).alias(), from.info().length), 0);
    }
    // As QEMU does it under the agent; then the guest writes there.
    void discard_and_write(std::uint64_t number) {
        ++counters_.begun;
        source_process_.punch(0, number, 1);
        ++counters_.ended;
        source_process_.write(0, {number});
    }

    std::optional<transport::Transport> tcp_;
    transport::Options options_;
    HypervisorProcess source_process_{page, one_block};
    HypervisorProcess destination_process_{page, one_block};
    testing::FakeSourceGuest source_guest_{source_process_};
    testing::FakeDestinationGuest destination_guest_;
    DiscardCounters counters_;
    ControlPage source_page_;
    ControlPage destination_page_;
    statemachine::EventQueue source_events_;
    statemachine::EventQueue destination_events_;
    statemachine::Machine source_machine_{Side::source, source_events_};
    statemachine::Machine destination_machine_{Side::destination, destination_events_};
    std::unique_ptr<Destination> destination_;
    std::future<Result<void>> destination_done_;
    std::string uri_;
    TransportUse use_;
};

TEST_F(Discards, WithoutAnyNothingIsRegisteredAgain) {
    counters_.begun = counters_.ended = 5;
    source_guest_.on_save = {7};
    expect_moved(migrate({pinning()}));
    EXPECT_EQ(told.find('r'), std::string::npos) << told;
    EXPECT_EQ(told.find("pf"), 0U) << told;
}

// In the first pass: told before anything of the next round is pushed, and once.
TEST_F(Discards, WhatIsWrittenAfterADiscardIsPushedAfterTheTransportWasTold) {
    after_the_call = [this](char what) {
        if (what == 'p' && counters_.begun == 0) {
            discard_and_write(1);
        }
    };
    expect_moved(migrate({pinning()}));
    EXPECT_EQ(told, "pfrpf");
}

// Saving device state lets go of memory and writes it: after the guest has stopped, in the very last round.
TEST_F(Discards, OneInTheLastRoundIsNotMissed) {
    source_guest_.on_save = {9};
    class Letting final : public SourceGuest {
    public:
        Letting(testing::FakeSourceGuest& guest, std::function<void()> let) : guest_(guest), let_(std::move(let)) {}
        Result<Fd> start_device_save() override { return guest_.start_device_save(); }
        Result<bool> stopped(std::chrono::milliseconds wait) override { return guest_.stopped(wait); }
        [[nodiscard]] std::chrono::steady_clock::time_point stopped_at() const override { return guest_.stopped_at(); }
        Result<bool> continued(std::chrono::milliseconds wait) override { return guest_.continued(wait); }
        Result<void> finish_device_save() override {
            let_();
            return guest_.finish_device_save();
        }
        Result<bool> commit() override { return guest_.commit(); }

    private:
        testing::FakeSourceGuest& guest_;
        std::function<void()> let_;
    } guest{source_guest_, [this] { discard_and_write(3); }};
    auto tracker = memory::make_dirty_tracker(source_process_.handles());
    ASSERT_TRUE(tracker) << tracker.error().to_string();
    Source source{SourceConfig{.blocks = again(source_process_),
                               .tracker = std::move(*tracker),
                               .peer = {.candidates = {pinning()}, .options = options_},
                               .page = &source_page_,
                               .discards = &counters_},
                  guest, source_machine_};
    EXPECT_TRUE(source_machine_.transition(Status::setup, statemachine::Cause::requested));
    expect_moved(source.run());
    EXPECT_EQ(told, "pfrpf");
}

// Longer than the migration: every look at the pages is followed by it.
TEST_F(Discards, OneThatIsUnderWayIsToldOfAtEveryLook) {
    ++counters_.begun;
    source_guest_.on_save = {9};
    expect_moved(migrate({pinning()}));
    EXPECT_GE(std::ranges::count(told, 'r'), 2) << told;
    EXPECT_TRUE(told.ends_with("rpf")) << told;
}

TEST_F(Discards, WhereTheyCannotBeSeenATransportThatPinsIsNotUsed) {
    const Error why = make_error(ErrorCode::unsupported, "migrate", "guest RAM", "it is given back at any time");
    expect_moved(migrate({pinning(), {.uri = uri_, .transport = *tcp_}}, why));
    EXPECT_EQ(told, "");
    EXPECT_EQ(use_.candidate, 1U);
    ASSERT_EQ(use_.attempts.size(), 1U);
    EXPECT_EQ(use_.attempts[0].phase, "memory");
    EXPECT_EQ(use_.attempts[0].error.reason, why.reason);
}

TEST_F(Discards, WhereNoOtherTransportIsGivenTheGuestStays) {
    const Error why = make_error(ErrorCode::unsupported, "migrate", "guest RAM", "it is given back at any time");
    const auto done = migrate({pinning()}, why);
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().reason, why.reason);
    EXPECT_EQ(source_machine_.status(), Status::failing);
}

} // namespace
} // namespace pageferry::engine
