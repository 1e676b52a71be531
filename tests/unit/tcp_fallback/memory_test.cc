#include "tcp_fallback/memory_gate.h"
#include "transport/plugin/memory_table.h"

#include <gtest/gtest.h>

#include <array>
#include <thread>

namespace pageferry::tcp {
namespace {

std::array<std::byte, 16384> memory;

pf_memory_block block(std::uint32_t number, std::uint32_t access, std::uint64_t length = memory.size()) {
    return {.size = sizeof(pf_memory_block),
            .block = number,
            .name = "pc.ram",
            .address = memory.data(),
            .length = length,
            .page_size = 4096,
            .access = access,
            .reserved = 0};
}

TEST(MemoryTable, GivesTheAddressWithinRangeAndRights) {
    const std::array blocks{block(9, PF_MEMORY_PUSH_TARGET), block(2, PF_MEMORY_PULL_SOURCE)};
    const auto table = MemoryTable::make(blocks);
    ASSERT_TRUE(table);
    EXPECT_EQ(table->at(9, 4096, 4096, PF_MEMORY_PUSH_TARGET).value(), memory.data() + 4096);
    EXPECT_EQ(table->at(9, 0, memory.size(), PF_MEMORY_PUSH_TARGET).value(), memory.data());
    EXPECT_EQ(table->at(9, 0, 1, PF_MEMORY_PULL_SOURCE).error().code, ErrorCode::permission);
    EXPECT_EQ(table->at(3, 0, 1, PF_MEMORY_PULL_SOURCE).error().code, ErrorCode::invalid_argument);
    EXPECT_FALSE(table->at(9, memory.size(), 1, PF_MEMORY_PUSH_TARGET));
    EXPECT_FALSE(table->at(9, 1, memory.size(), PF_MEMORY_PUSH_TARGET));
    EXPECT_FALSE(table->at(9, UINT64_MAX, 2, PF_MEMORY_PUSH_TARGET)) << "the sum wraps";
    EXPECT_FALSE(table->at(9, 0, 0, PF_MEMORY_PUSH_TARGET));
}

TEST(MemoryTable, RefusesBlocksThatMakeNoSense) {
    EXPECT_FALSE(MemoryTable::make(std::array{block(1, 0), block(1, 0)})) << "twice";
    EXPECT_FALSE(MemoryTable::make(std::array{block(1, 0, 4097)})) << "not whole pages";
    EXPECT_FALSE(MemoryTable::make(std::array{block(1, 0, 0)}));
    auto small = block(1, 0);
    small.size = 8;
    EXPECT_FALSE(MemoryTable::make(std::array{small}));
    EXPECT_TRUE(MemoryTable::make({})) << "a guest without RAM blocks";
}

TEST(MemoryGate, RevokeWaitsForThoseInsideAndThenNobodyEnters) {
    MemoryGate gate;
    using enum MemoryGate::With;
    ASSERT_TRUE(gate.enter(push));
    EXPECT_FALSE(gate.revoke(Deadline::in(0)));
    EXPECT_FALSE(gate.enter(push)) << "shut for newcomers from the first moment";
    std::thread other{[&] { gate.leave(push); }};
    EXPECT_TRUE(gate.revoke(Deadline::in(60'000)));
    other.join();
    EXPECT_FALSE(gate.enter(push));
}

TEST(MemoryGate, AnswersToPullsPassAfterARevokeUntilTheEnd) {
    MemoryGate gate;
    using enum MemoryGate::With;
    ASSERT_TRUE(gate.enter(answer));
    EXPECT_TRUE(gate.revoke(Deadline::in(0))) << "an answer that lands is no push";
    gate.leave(answer);
    EXPECT_TRUE(gate.enter(answer));
    gate.leave(answer);
    gate.end();
    EXPECT_FALSE(gate.enter(answer));
}

TEST(MemoryGate, ATableComesOnceAndThoseWhoWaitGetIt) {
    MemoryGate gate;
    const MemoryTable* seen = nullptr;
    std::thread waiter{[&] { seen = gate.wait_for_table(); }};
    ASSERT_TRUE(gate.publish(MemoryTable::make({}).value()));
    waiter.join();
    EXPECT_EQ(seen, gate.table());
    EXPECT_FALSE(gate.publish(MemoryTable::make({}).value()));
    MemoryGate never;
    never.end();
    EXPECT_EQ(never.wait_for_table(), nullptr);
}

} // namespace
} // namespace pageferry::tcp
