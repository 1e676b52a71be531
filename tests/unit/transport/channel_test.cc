#include "transport/session/channel.h"

#include "fake_transport.h"

#include <gtest/gtest.h>

#include <thread>

namespace pageferry::transport::session {
namespace {

constexpr Milliseconds generous{60'000};
constexpr Milliseconds never{600'000}; // a dead_peer that no test waits for

struct Ends {
    explicit Ends(Milliseconds dead_peer = never)
        : wire(std::make_shared<fake::Wire>()), connections(fake::pair(wire)), a(connections.first, dead_peer),
          b(connections.second, dead_peer) {}

    std::shared_ptr<fake::Wire> wire;
    std::pair<Connection, Connection> connections;
    Channel a;
    Channel b;
};

template <class M>
M expect_message(Channel& channel) {
    const auto message = channel.receive(generous);
    EXPECT_TRUE(message) << message.error().to_string();
    EXPECT_TRUE(message && *message && std::holds_alternative<M>(**message));
    return message && *message && std::holds_alternative<M>(**message) ? std::get<M>(**message) : M{};
}

TEST(Channel, MessagesArriveInOrder) {
    Ends ends;
    for (std::uint64_t round = 0; round < 100; ++round) {
        ASSERT_TRUE(ends.a.send(RoundEnd{.round = round, .bytes = 1}));
    }
    ASSERT_TRUE(ends.a.send(Permit{}));
    for (std::uint64_t round = 0; round < 100; ++round) {
        EXPECT_EQ(expect_message<RoundEnd>(ends.b).round, round);
    }
    expect_message<Permit>(ends.b);
}

TEST(Channel, NothingInTimeIsEmpty) {
    Ends ends;
    const auto message = ends.a.receive(Milliseconds{0});
    ASSERT_TRUE(message) << message.error().to_string();
    EXPECT_FALSE(*message);
}

TEST(Channel, AMessageBeyondTheLimitsIsNotSent) {
    Ends ends;
    const auto sent = ends.a.send(DeviceState{std::vector<std::byte>(max_payload + 1)});
    ASSERT_FALSE(sent);
    EXPECT_EQ(sent.error().code, ErrorCode::invalid_argument);
    EXPECT_EQ(ends.wire->sent[0], 0U);
}

TEST(Channel, AFailureOfThePeerIsAnErrorWithItsCodeAndText) {
    Ends ends;
    ASSERT_TRUE(ends.a.send(Failure{.code = ErrorCode::resources, .text = "/dev/shm is full"}));
    const auto message = ends.b.receive(generous);
    ASSERT_FALSE(message);
    EXPECT_EQ(message.error().code, ErrorCode::resources);
    EXPECT_EQ(message.error().reason, "/dev/shm is full");
    EXPECT_EQ(message.error().peer, "fake end 1");
}

TEST(Channel, GarbageIsAProtocolErrorThatNamesThePeer) {
    Ends ends;
    fake::inject(*ends.wire, 0, std::vector<std::byte>(100, std::byte{0x41}));
    const auto message = ends.a.receive(generous);
    ASSERT_FALSE(message);
    EXPECT_EQ(message.error().code, ErrorCode::protocol);
    EXPECT_EQ(message.error().peer, "fake end 0");
}

TEST(Channel, ASilentPeerIsTimedOutByNameAndTime) {
    Ends ends{Milliseconds{200}};
    const auto begin = std::chrono::steady_clock::now();
    const auto message = ends.a.receive(generous); // nobody receives on b, so nobody answers
    const auto took = std::chrono::steady_clock::now() - begin;
    ASSERT_FALSE(message);
    EXPECT_EQ(message.error().code, ErrorCode::timed_out);
    EXPECT_EQ(message.error().peer, "fake end 0");
    EXPECT_NE(message.error().reason.find("said nothing for 0."), std::string::npos) << message.error().reason;
    EXPECT_GE(took, Milliseconds{200});
    EXPECT_GE(ends.wire->sent[0], 1U) << "heartbeats went out meanwhile";
}

TEST(Channel, HeartbeatsKeepTwoQuietPeersAlive) {
    Ends ends{Milliseconds{1500}};
    const auto quiet = [](Channel& channel) {
        const auto message = channel.receive(Milliseconds{4000}); // well over dead_peer
        EXPECT_TRUE(message) << message.error().to_string();
        EXPECT_TRUE(message && !*message) << "a heartbeat never shows";
    };
    std::thread other{[&] { quiet(ends.b); }};
    quiet(ends.a);
    other.join();
    EXPECT_GE(ends.wire->sent[0], 2U);
    EXPECT_GE(ends.wire->sent[1], 2U);
}

TEST(Channel, WhatIsSentSavesAHeartbeat) {
    Ends ends{Milliseconds{400'000}}; // the interval is one second then
    ASSERT_TRUE(ends.a.send(Running{}));
    ASSERT_TRUE(ends.a.receive(Milliseconds{10}));
    EXPECT_EQ(ends.wire->sent[0], 1U);
}

TEST(Channel, TimeSpentElsewhereIsNotThePeersSilence) {
    Ends brief{Milliseconds{400}};
    std::this_thread::sleep_for(Milliseconds{1200}); // the thread does something else for three times dead_peer
    const auto message = brief.a.receive(Milliseconds{0});
    EXPECT_TRUE(message) << message.error().to_string();
}

TEST(Channel, AFullLaneDoesNotFailAHeartbeat) {
    Ends brief{Milliseconds{400}};
    brief.wire->full[0] = true;
    std::this_thread::sleep_for(Milliseconds{150}); // a heartbeat is due
    const auto message = brief.a.receive(Milliseconds{0});
    EXPECT_TRUE(message) << message.error().to_string();
    const auto sent = brief.a.send(Permit{});
    ASSERT_FALSE(sent);
    EXPECT_EQ(sent.error().code, ErrorCode::timed_out);
}

TEST(Channel, CancelEndsAReceive) {
    Ends ends;
    std::thread receiver{[&] {
        const auto message = ends.a.receive(generous);
        ASSERT_FALSE(message);
        EXPECT_EQ(message.error().code, ErrorCode::cancelled);
    }};
    ends.connections.first.cancel();
    receiver.join();
}

TEST(Channel, ThePeerGoingAwayIsClosed) {
    Ends ends;
    ASSERT_TRUE(ends.b.send(Goodbye{}));
    {
        const Connection gone = std::move(ends.connections.second);
    }
    expect_message<Goodbye>(ends.a);
    const auto message = ends.a.receive(generous);
    ASSERT_FALSE(message);
    EXPECT_EQ(message.error().code, ErrorCode::closed);
}

TEST(Channel, ManyThreadsMaySend) {
    Ends ends;
    constexpr int each = 200;
    std::vector<std::thread> senders;
    for (std::uint64_t sender = 0; sender < 4; ++sender) {
        senders.emplace_back([&ends, sender] {
            for (int i = 0; i < each; ++i) {
                EXPECT_TRUE(ends.a.send(RoundEnd{.round = sender, .bytes = static_cast<std::uint64_t>(i)}));
            }
        });
    }
    std::uint64_t next[4] = {};
    for (int i = 0; i < 4 * each; ++i) {
        const auto message = expect_message<RoundEnd>(ends.b);
        ASSERT_LT(message.round, 4U);
        EXPECT_EQ(message.bytes, next[message.round]++);
    }
    for (std::thread& sender : senders) {
        sender.join();
    }
}

} // namespace
} // namespace pageferry::transport::session
