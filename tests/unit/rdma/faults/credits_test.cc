// The control lane's credits, as the device sees them: no message ever meets a peer without a buffer.
#include "pair.h"

#include "rdma/lane_set.h"

#include <algorithm>

namespace pageferry::rdma::test {
namespace {

constexpr LaneEnd sender{.side = Side::caller, .kind = LaneKind::control, .index = 0};
constexpr LaneEnd receiver{.side = Side::callee, .kind = LaneKind::control, .index = 0};
constexpr std::size_t credits = control_slots - 2;

// How many that PF_TIMED_OUT comes after.
std::size_t send_until_full(End& end, std::size_t most) {
    for (std::size_t sent = 0; sent < most; ++sent) {
        if (end.send("message", 0) != PF_OK && end.send("message", 300) != PF_OK) {
            return sent;
        }
    }
    return most;
}

TEST_F(RdmaFaults, AsManyMessagesAreSentAsThePeerHasBuffersFor) {
    Pair pair;
    EXPECT_EQ(send_until_full(pair.caller, 2 * credits), credits);
    EXPECT_EQ(hooks().sends(sender).size(), credits);
    Problem problem;
    EXPECT_EQ(pair.caller.send("one too many", 50, &problem), PF_TIMED_OUT);
    EXPECT_EQ(problem.lane, 0U);
    EXPECT_TRUE(problem.says("the peer does not take messages")) << problem.text();

    // Half of them taken: the peer says so by itself, once, and as many more may go.
    for (std::size_t i = 0; i < credits / 2; ++i) {
        EXPECT_TRUE(hooks().sends(receiver).empty()) << i;
        EXPECT_EQ(pair.callee.receive(), "message");
    }
    EXPECT_EQ(hooks().sends(receiver), std::vector<std::uint32_t>{control_header_bytes});
    EXPECT_EQ(send_until_full(pair.caller, credits), credits / 2);
    for (std::size_t i = 0; i < credits; ++i) {
        EXPECT_EQ(pair.callee.receive(), "message");
    }
    EXPECT_EQ(pair.callee.receive(0), "again");
}

TEST_F(RdmaFaults, CreditsTravelWithMessages) {
    Pair pair;
    EXPECT_EQ(send_until_full(pair.caller, credits), credits);
    for (std::size_t i = 0; i < 10; ++i) {
        EXPECT_EQ(pair.callee.receive(), "message");
    }
    EXPECT_EQ(pair.callee.send("an answer"), PF_OK);
    EXPECT_EQ(pair.caller.receive(), "an answer");
    EXPECT_EQ(send_until_full(pair.caller, credits), 10U);
    EXPECT_EQ(hooks().sends(receiver).size(), 1U) << "no message of credits alone";
}

// Both full at once: neither can answer, and both go on as soon as one takes something.
TEST_F(RdmaFaults, BothSidesFullDoNotLockEachOtherUp) {
    Pair pair;
    EXPECT_EQ(send_until_full(pair.caller, 2 * credits), credits);
    EXPECT_EQ(send_until_full(pair.callee, 2 * credits), credits);
    for (std::size_t i = 0; i < credits; ++i) {
        EXPECT_EQ(pair.caller.receive(), "message");
        EXPECT_EQ(pair.callee.receive(), "message");
    }
    EXPECT_EQ(pair.caller.send("on", generous_ms), PF_OK);
    EXPECT_EQ(pair.callee.send("on", generous_ms), PF_OK);
    EXPECT_EQ(pair.callee.receive(), "on");
    EXPECT_EQ(pair.caller.receive(), "on");
    for (const LaneEnd& end : {sender, receiver}) {
        const auto sent = hooks().sends(end);
        const auto alone = static_cast<std::size_t>(std::ranges::count(sent, std::uint32_t{control_header_bytes}));
        EXPECT_LE(alone, 2U) << "there are two buffers for them";
        EXPECT_EQ(sent.size() - alone, credits + 1);
    }
}

// Sent one by one and taken one by one, many times round.
TEST_F(RdmaFaults, ALongOneSidedStreamGoesOnForEver) {
    Pair pair;
    constexpr std::size_t many = 20 * control_slots;
    for (std::size_t i = 0; i < many; ++i) {
        ASSERT_EQ(pair.caller.send(std::to_string(i)), PF_OK);
        ASSERT_EQ(pair.callee.receive(), std::to_string(i));
    }
    const auto told = hooks().sends(receiver).size();
    EXPECT_GE(told, many / credits);
    EXPECT_LE(told, 2 * many / credits + 1) << "not after every message";
}

} // namespace
} // namespace pageferry::rdma::test
