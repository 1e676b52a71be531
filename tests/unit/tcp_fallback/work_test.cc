// What a connection's lanes are given to do, turn by turn, with no socket in sight.
#include "tcp_fallback/work.h"

#include "transport/plugin/memory_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>
#include <vector>

namespace pageferry::tcp {
namespace {

constexpr std::uint64_t guest_bytes = 64ULL << 20U;
constexpr std::size_t urgent = 2; // the number of that lane

class WorkTest : public testing::Test {
protected:
    WorkTest() : guest(guest_bytes) {
        pf_memory_block block{};
        block.size = sizeof block;
        block.name = "ram";
        block.address = guest.data();
        block.length = guest_bytes;
        block.page_size = 4096;
        block.access = PF_MEMORY_PUSH_SOURCE | PF_MEMORY_PULL_TARGET;
        table = MemoryTable::make(std::span{&block, 1}).value();
    }
    static pf_extent extent(std::uint64_t offset, std::uint64_t length, std::uint64_t cookie) {
        return {.block = 0, .reserved = 0, .offset = offset, .length = length, .cookie = cookie};
    }
    std::size_t submit(OpKind kind, std::vector<pf_extent> extents) { return work.submit(kind, table, extents); }
    // What poll gives at once: cookies, with status.
    std::vector<std::pair<std::uint64_t, int>> completions() {
        std::array<pf_completion, 32> out{};
        std::size_t count = 0;
        std::vector<std::pair<std::uint64_t, int>> list;
        if (work.poll(out, count, Deadline::in(0)) == Waited::done) {
            for (const pf_completion& done : std::span{out}.first(count)) {
                list.emplace_back(done.cookie, done.status);
            }
        }
        return list;
    }

    std::vector<std::byte> guest;
    MemoryTable table;
    Work work{2, 16};
    Turn zero;
    Turn one;
};

using Completions = std::vector<std::pair<std::uint64_t, int>>;

TEST_F(WorkTest, LanesShareALargeExtentAndItCompletesOnce) {
    ASSERT_EQ(submit(OpKind::push, {extent(0, 2 * turn_bytes, 7)}), 1U);
    ASSERT_TRUE(work.next(0, zero));
    ASSERT_TRUE(work.next(1, one));
    EXPECT_EQ(zero.data.at(0).piece.offset, 0U);
    EXPECT_EQ(one.data.at(0).piece.offset, turn_bytes);
    work.sent(one);
    EXPECT_TRUE(completions().empty());
    work.sent(zero);
    EXPECT_EQ(completions(), (Completions{{7, PF_OK}}));
    EXPECT_EQ(work.bytes_pushed(), 2 * turn_bytes);
}

TEST_F(WorkTest, SmallExtentsTravelTogether) {
    std::vector<pf_extent> pages;
    for (std::uint64_t i = 0; i < 20; ++i) {
        pages.push_back(extent(i * 8192, 4096, i));
    }
    EXPECT_EQ(submit(OpKind::push, pages), 16U) << "the queue holds 16";
    EXPECT_EQ(submit(OpKind::push, pages), 0U);
    ASSERT_TRUE(work.next(0, zero));
    EXPECT_EQ(zero.data.size(), 16U);
    work.sent(zero);
    EXPECT_EQ(completions().size(), 16U);
    EXPECT_EQ(submit(OpKind::push, pages), 16U);
}

TEST_F(WorkTest, AFenceFollowsTheDataOnEveryLaneAndWaitsForAllAnswers) {
    submit(OpKind::push, {extent(0, 2 * turn_bytes, 7)});
    EXPECT_EQ(work.fence(Deadline::in(0)), Waited::timed_out);
    ASSERT_TRUE(work.next(0, zero));
    EXPECT_FALSE(zero.fence) << "the rest of the data is still to be taken";
    ASSERT_TRUE(work.next(1, one));
    EXPECT_EQ(one.fence, 1U) << "after the last data, in the same turn";
    EXPECT_EQ(one.data.size(), 1U);
    work.sent(zero);
    ASSERT_TRUE(work.next(0, zero));
    EXPECT_EQ(zero.fence, 1U);
    EXPECT_TRUE(zero.data.empty());

    EXPECT_EQ(work.fence(Deadline::in(0)), Waited::timed_out); // number 2; covers number 1
    ASSERT_TRUE(work.next(0, zero));
    ASSERT_TRUE(work.next(1, one));
    EXPECT_TRUE(work.fenced(0, 2));
    EXPECT_FALSE(work.fenced(1, 3)) << "never sent";
    EXPECT_TRUE(work.fenced(1, 2));
    EXPECT_FALSE(work.fenced(1, 1)) << "going back";
}

TEST_F(WorkTest, OnlyTheLatestFenceIsAnswered) {
    work.owe_fenced(1, 4);
    work.owe_fenced(1, 6);
    ASSERT_TRUE(work.next(1, one));
    EXPECT_EQ(one.fenced, 6U);
}

TEST_F(WorkTest, PullsStayWithinTheWindowOfALane) {
    ASSERT_EQ(submit(OpKind::pull, {extent(0, guest_bytes, 7)}), 1U);
    std::uint64_t asked = 0;
    while (asked < pull_window_bytes) {
        ASSERT_TRUE(work.next(0, zero));
        for (const Part& part : zero.requests) {
            asked += part.piece.length;
        }
    }
    EXPECT_EQ(asked, pull_window_bytes);
    ASSERT_TRUE(work.next(1, one)) << "the other lane has its own";
    EXPECT_EQ(one.first_request, 0U);
    EXPECT_EQ(one.requests.at(0).piece.offset, pull_window_bytes);
}

TEST_F(WorkTest, AnswersMustMatchTheOldestRequests) {
    submit(OpKind::pull_urgent, {extent(0, 4096, 1), extent(8192, 4096, 2)});
    ASSERT_TRUE(work.next(urgent, zero));
    ASSERT_EQ(zero.requests.size(), 2U);
    std::array<Part, 1> answer{Part{.piece = {.offset = 8192, .block = 0, .length = 4096}}};
    EXPECT_FALSE(work.claim(urgent, 0, answer)) << "not the oldest";
    answer[0].piece.offset = 0;
    EXPECT_FALSE(work.claim(urgent, 1, answer)) << "not its number";
    EXPECT_FALSE(work.claim(0, 0, answer)) << "not this lane's";
    ASSERT_TRUE(work.claim(urgent, 0, answer));
    EXPECT_EQ(answer[0].address, guest.data());
    work.landed(urgent, 1);
    EXPECT_EQ(completions(), (Completions{{1, PF_OK}}));
    EXPECT_EQ(work.bytes_pulled(), 4096U);
}

TEST_F(WorkTest, APeerCannotAskForMoreThanTheRulesAllow) {
    const std::vector<Part> many(max_requests, Part{.piece = {.offset = 0, .block = 0, .length = 4096}, .address = guest.data()});
    EXPECT_FALSE(work.owe_replies(0, 1, std::span{many}.first(1))) << "numbers begin with 0";
    EXPECT_TRUE(work.owe_replies(0, 0, many));
    EXPECT_FALSE(work.owe_replies(0, max_requests, std::span{many}.first(1)));
    ASSERT_TRUE(work.next(0, zero));
    EXPECT_EQ(zero.replies.size(), max_pieces);
    EXPECT_EQ(zero.first_reply, 0U);
    EXPECT_TRUE(work.owe_replies(0, max_requests, std::span{many}.first(1)));
}

// Who has something for the urgent lane sends it itself while the lane's own thread sleeps, and nothing is forgotten between the
// two.
TEST_F(WorkTest, TheUrgentLaneIsLentWhileItsSenderSleeps) {
    std::atomic<std::uint64_t> taken = 0; // turns of the sender
    std::thread sender{[&] {
        Turn its;
        while (work.next(urgent, its)) {
            ++taken;
        }
    }};
    Turn mine;
    std::uint64_t lent = 0;
    for (std::uint64_t number = 0; lent < 20; ++number) {
        const std::uint64_t before = taken;
        ASSERT_EQ(submit(OpKind::pull_urgent, {extent(0, 4096, number)}), 1U);
        if (work.borrow(mine)) {
            ++lent;
            ASSERT_EQ(mine.requests.size(), 1U);
            EXPECT_EQ(mine.first_request, number);
            EXPECT_FALSE(work.borrow(zero)) << "to one at a time";
            EXPECT_FALSE(work.after_borrowed(mine, true)) << "there is no more";
        } else {
            while (taken == before) { // it was awake
                std::this_thread::yield();
            }
        }
        std::array<Part, 1> answer{Part{.piece = {.offset = 0, .block = 0, .length = 4096}}};
        ASSERT_TRUE(work.claim(urgent, number, answer));
        work.landed(urgent, 1);
        EXPECT_EQ(completions(), (Completions{{number, PF_OK}}));
    }
    work.end();
    sender.join();
    EXPECT_FALSE(work.borrow(mine));
}

TEST_F(WorkTest, WhatABorrowerCouldNotSendIsLeftToTheSender) {
    std::thread sender{[&] { EXPECT_TRUE(work.next(urgent, zero)); }}; // they share a turn, as in LaneSender
    submit(OpKind::pull_urgent, {extent(0, 4096, 1)});
    if (work.borrow(zero)) { // else the thread takes it before it sleeps
        submit(OpKind::pull_urgent, {extent(4096, 4096, 2)});
        EXPECT_FALSE(work.after_borrowed(zero, false));
    }
    sender.join();
    ASSERT_EQ(zero.requests.size(), 1U) << "what is left, and no more yet";
    EXPECT_EQ(zero.requests[0].piece.offset, 0U);
}

TEST_F(WorkTest, TheEndSendsEveryoneHome) {
    work.end();
    EXPECT_FALSE(work.next(0, zero));
    EXPECT_EQ(work.fence(Deadline::in(60'000)), Waited::ended);
    std::array<pf_completion, 1> out{};
    std::size_t count = 0;
    EXPECT_EQ(work.poll(out, count, Deadline::in(60'000)), Waited::ended);
}

} // namespace
} // namespace pageferry::tcp
