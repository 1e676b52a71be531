#include "pair.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <thread>
#include <vector>

namespace pageferry::tcp::test {
namespace {

constexpr std::size_t guest_bytes = 16U << 20U;

// memcmp, for a sanitizer watches every step of a loop; and no failure prints all of it.
bool same(const std::vector<std::byte>& one, const std::vector<std::byte>& other) {
    return one.size() == other.size() && std::memcmp(one.data(), other.data(), one.size()) == 0;
}

class Pages : public testing::Test {
protected:
    Pages() : source(guest_bytes), target(guest_bytes) { fill(source, 1); }

    void add(std::uint32_t caller_may, std::uint32_t callee_may) {
        Problem problem;
        ASSERT_EQ(pair.caller.add(source, caller_may, problem), PF_OK) << problem.text();
        ASSERT_EQ(pair.callee.add(target, callee_may, problem), PF_OK) << problem.text();
    }
    void for_pushes() { add(PF_MEMORY_PUSH_SOURCE, PF_MEMORY_PUSH_TARGET); }
    void for_pulls() { add(PF_MEMORY_PULL_SOURCE, PF_MEMORY_PULL_TARGET); }

    std::vector<std::byte> source;
    std::vector<std::byte> target;
    Pair pair{"tcp:127.0.0.1:0", options(3)};
};

TEST_F(Pages, WhatWasPushedIsThereAfterTheFence) {
    for_pushes();
    ASSERT_EQ(pair.caller.push(0, guest_bytes, 99), PF_OK);
    ASSERT_EQ(pair.caller.fence(), PF_OK);
    EXPECT_TRUE(same(source, target));
    pf_completion completion{};
    ASSERT_EQ(pair.caller.poll(completion), PF_OK);
    EXPECT_EQ(completion.cookie, 99U);
    EXPECT_EQ(completion.status, PF_OK);
    EXPECT_EQ(pair.caller.poll(completion, 0), PF_AGAIN) << "many pieces, one completion";
    pf_counters counters{};
    counters.size = sizeof counters;
    ASSERT_EQ(api().counters(pair.caller.get, &counters), PF_OK);
    EXPECT_EQ(counters.bytes_pushed, guest_bytes);
    EXPECT_EQ(counters.lanes, 3U);
    EXPECT_GE(counters.wire_bytes, guest_bytes);
}

TEST_F(Pages, ManyScatteredPagesAllLandAndTheRestIsUntouched) {
    for_pushes();
    std::multiset<std::uint64_t> open;
    pf_completion completion{};
    for (std::uint64_t at = 0; at < guest_bytes; at += 8192) {
        int status = PF_OK;
        while ((status = pair.caller.push(at, 4096, at)) == PF_AGAIN) {
            ASSERT_EQ(pair.caller.poll(completion), PF_OK);
            EXPECT_EQ(open.erase(completion.cookie), 1U);
        }
        ASSERT_EQ(status, PF_OK);
        open.insert(at);
    }
    ASSERT_EQ(pair.caller.fence(), PF_OK);
    while (!open.empty()) {
        ASSERT_EQ(pair.caller.poll(completion), PF_OK);
        EXPECT_EQ(open.erase(completion.cookie), 1U);
    }
    const std::vector<std::byte> zero(4096);
    for (std::size_t at = 0; at < guest_bytes; at += 8192) {
        ASSERT_TRUE(std::equal(&source[at], &source[at] + 4096, &target[at])) << at;
        ASSERT_TRUE(std::equal(zero.begin(), zero.end(), &target[at + 4096])) << at;
    }
}

TEST_F(Pages, LaterRoundsWin) {
    for_pushes();
    for (std::uint64_t round = 0; round < 10; ++round) {
        fill(source, round);
        ASSERT_EQ(pair.caller.push(0, guest_bytes / 2, round), PF_OK);
        ASSERT_EQ(pair.caller.push(guest_bytes / 2, guest_bytes / 2, round), PF_OK);
        ASSERT_EQ(pair.caller.fence(), PF_OK);
        ASSERT_TRUE(same(source, target)) << round;
    }
}

TEST_F(Pages, PushesThatComeBeforeThePeersMemoryWaitForIt) {
    Problem problem;
    ASSERT_EQ(pair.caller.add(source, PF_MEMORY_PUSH_SOURCE, problem), PF_OK);
    ASSERT_EQ(pair.caller.push(0, guest_bytes), PF_OK);
    EXPECT_EQ(pair.caller.fence(0), PF_TIMED_OUT);
    ASSERT_EQ(pair.callee.add(target, PF_MEMORY_PUSH_TARGET, problem), PF_OK);
    EXPECT_EQ(pair.caller.fence(), PF_OK) << "a fence that timed out does no harm";
    EXPECT_TRUE(same(source, target));
}

TEST_F(Pages, PullsBringTheDataOnBothLanes) {
    for_pulls();
    pf_completion completion{};
    ASSERT_EQ(pair.callee.pull(PF_PULL_BULK, 0, guest_bytes / 2, 1), PF_OK);
    ASSERT_EQ(pair.callee.poll(completion), PF_OK);
    EXPECT_EQ(completion.cookie, 1U);
    for (std::uint64_t at = guest_bytes / 2; at < guest_bytes; at += 4096) {
        int status = PF_OK;
        while ((status = pair.callee.pull(PF_PULL_URGENT, at, 4096, at)) == PF_AGAIN) {
            ASSERT_EQ(pair.callee.poll(completion), PF_OK);
        }
        ASSERT_EQ(status, PF_OK);
    }
    pf_counters counters{};
    counters.size = sizeof counters;
    do {
        (void)pair.callee.poll(completion);
        ASSERT_EQ(api().counters(pair.callee.get, &counters), PF_OK);
    } while (counters.bytes_pulled < guest_bytes);
    EXPECT_TRUE(same(source, target));
}

TEST_F(Pages, BothSidesMayPullFromEachOtherAtOnce) {
    std::vector<std::byte> kept = source;
    constexpr std::uint32_t both = PF_MEMORY_PULL_SOURCE | PF_MEMORY_PULL_TARGET;
    fill(target, 2);
    add(both, both);
    const auto pull_half = [](End& end, std::uint64_t from) {
        ASSERT_EQ(end.pull(PF_PULL_BULK, from, guest_bytes / 2, 1), PF_OK);
        pf_completion completion{};
        ASSERT_EQ(end.poll(completion), PF_OK);
        EXPECT_EQ(completion.status, PF_OK);
    };
    std::thread other{[&] { pull_half(pair.callee, 0); }};
    pull_half(pair.caller, guest_bytes / 2);
    other.join();
    EXPECT_TRUE(same(source, target));
    EXPECT_TRUE(std::equal(kept.begin(), kept.begin() + guest_bytes / 2, target.begin()));
}

TEST_F(Pages, ExtentsThatAreNotAllowedAreRefusedAndNothingIsTaken) {
    EXPECT_EQ(pair.caller.push(0, 4096), PF_STATE) << "no memory yet";
    for_pushes();
    EXPECT_EQ(pair.caller.push(0, guest_bytes + 4096), PF_INVALID);
    EXPECT_EQ(pair.caller.push(guest_bytes, 4096), PF_INVALID);
    EXPECT_EQ(pair.caller.push(0, 0), PF_INVALID);
    EXPECT_EQ(pair.caller.pull(PF_PULL_BULK, 0, 4096), PF_PERMISSION);
    EXPECT_EQ(pair.caller.pull(7, 0, 4096), PF_INVALID);
    const std::array mixed{pf_extent{.block = 0, .reserved = 0, .offset = 0, .length = 4096, .cookie = 1},
                           pf_extent{.block = 5, .reserved = 0, .offset = 0, .length = 4096, .cookie = 2}};
    std::size_t accepted = 77;
    EXPECT_EQ(api().push(pair.caller.get, mixed.data(), mixed.size(), &accepted, nullptr), PF_INVALID);
    EXPECT_EQ(accepted, 0U);
    Problem problem;
    EXPECT_EQ(pair.caller.add(source, PF_MEMORY_PUSH_SOURCE, problem), PF_STATE) << "twice";
    EXPECT_EQ(pair.caller.fence(), PF_OK);
}

TEST_F(Pages, APushWithoutRightEndsTheConnectionAndNamesTheBlock) {
    add(PF_MEMORY_PUSH_SOURCE, PF_MEMORY_PULL_TARGET);
    ASSERT_EQ(pair.caller.push(0, 4096), PF_OK);
    Problem problem;
    std::vector<char> buffer(PF_CONTROL_MAX);
    std::size_t length = 0;
    EXPECT_EQ(api().receive(pair.callee.get, buffer.data(), buffer.size(), &length, generous_ms, &problem), PF_PERMISSION);
    EXPECT_NE(std::string_view{problem.object}.find("ram"), std::string_view::npos) << problem.text();
    EXPECT_GE(problem.lane, 1U);
    EXPECT_EQ(pair.caller.fence(), PF_CLOSED);
    EXPECT_TRUE(same(target, std::vector<std::byte>(guest_bytes)));
}

TEST_F(Pages, AfterRevokeNothingLandsAndControlGoesOn) {
    for_pushes();
    ASSERT_EQ(pair.caller.push(0, 4096), PF_OK);
    ASSERT_EQ(pair.caller.fence(), PF_OK);
    ASSERT_EQ(api().revoke_memory(pair.callee.get, generous_ms, nullptr), PF_OK);
    EXPECT_EQ(pair.caller.send("permit"), PF_OK);
    EXPECT_EQ(pair.callee.receive(), "permit");
    EXPECT_EQ(pair.callee.send("thanks"), PF_OK);
    EXPECT_EQ(pair.caller.receive(), "thanks");
    const std::vector<std::byte> before = target;
    ASSERT_EQ(pair.caller.push(4096, 4096), PF_OK);
    EXPECT_EQ(pair.caller.fence(), PF_CLOSED) << "never a fence that says it has landed";
    EXPECT_EQ(pair.callee.fence(), PF_STATE);
    EXPECT_TRUE(same(target, before));
}

TEST_F(Pages, RevokeInTheMiddleOfAStreamOfPushes) {
    for_pushes();
    std::jthread pusher{[&] {
        for (std::uint64_t i = 0; i < 1000; ++i) {
            const int status = pair.caller.push(0, guest_bytes, i);
            if (status != PF_OK && status != PF_AGAIN) {
                return;
            }
            (void)pair.caller.fence();
        }
    }};
    const std::vector<std::byte> zero(4096);
    pf_counters counters{};
    counters.size = sizeof counters;
    do { // until the stream flows
        ASSERT_EQ(api().counters(pair.caller.get, &counters), PF_OK);
    } while (counters.bytes_pushed < guest_bytes);
    // A push that comes behind the revoke ends the connection, perhaps before revoke_memory() has answered: then that is its
    // answer. Either way nothing may change from here on.
    const int revoked = api().revoke_memory(pair.callee.get, generous_ms, nullptr);
    EXPECT_TRUE(revoked == PF_OK || revoked == PF_STATE) << revoked;
    if (revoked != PF_OK) {
        EXPECT_EQ(pair.callee.fence(), revoked) << "only a connection that has ended may answer so";
    }
    std::ranges::fill(target, std::byte{0x5a});
    pusher.join();
    EXPECT_TRUE(same(target, std::vector<std::byte>(guest_bytes, std::byte{0x5a})));
}

TEST_F(Pages, PullsUnderWayGoOnAfterARevoke) {
    Problem problem;
    ASSERT_EQ(pair.callee.add(target, PF_MEMORY_PUSH_TARGET | PF_MEMORY_PULL_TARGET, problem), PF_OK);
    // The peer has no memory yet, so it cannot answer before we have revoked.
    ASSERT_EQ(pair.callee.pull(PF_PULL_BULK, 0, guest_bytes, 5), PF_OK);
    ASSERT_EQ(api().revoke_memory(pair.callee.get, generous_ms, nullptr), PF_OK);
    ASSERT_EQ(pair.caller.add(source, PF_MEMORY_PUSH_SOURCE | PF_MEMORY_PULL_SOURCE, problem), PF_OK);
    pf_completion completion{};
    ASSERT_EQ(pair.callee.poll(completion), PF_OK);
    EXPECT_EQ(completion.cookie, 5U);
    EXPECT_EQ(completion.status, PF_OK);
    EXPECT_TRUE(same(source, target));
    EXPECT_EQ(pair.callee.fence(), PF_OK);
    EXPECT_EQ(pair.caller.send("on"), PF_OK);
    EXPECT_EQ(pair.callee.receive(), "on");
}

TEST_F(Pages, APullFromMemoryThatWasRevokedEndsTheConnection) {
    for_pulls();
    ASSERT_EQ(api().revoke_memory(pair.caller.get, generous_ms, nullptr), PF_OK);
    ASSERT_EQ(pair.callee.pull(PF_PULL_URGENT, 0, 4096), PF_OK);
    pf_completion completion{};
    EXPECT_EQ(pair.callee.poll(completion), PF_CLOSED);
    EXPECT_EQ(pair.caller.fence(), PF_STATE);
    EXPECT_TRUE(same(target, std::vector<std::byte>(guest_bytes)));
}

TEST_F(Pages, ControlIsNotHeldUpByPages) {
    Problem problem;
    ASSERT_EQ(pair.caller.add(source, PF_MEMORY_PUSH_SOURCE, problem), PF_OK);
    for (std::uint64_t i = 0; i < 8; ++i) { // more than the sockets hold: the peer does not take pages yet
        ASSERT_EQ(pair.caller.push(0, guest_bytes, i), PF_OK);
    }
    EXPECT_EQ(pair.caller.send("past the pages"), PF_OK);
    EXPECT_EQ(pair.callee.receive(), "past the pages");
}

} // namespace
} // namespace pageferry::tcp::test
