#include "tcp_fallback/op_queue.h"

#include <gtest/gtest.h>

#include <array>

namespace pageferry::tcp {
namespace {

std::array<std::byte, 1 << 16> memory;

pf_extent extent(std::uint64_t offset, std::uint64_t length, std::uint64_t cookie) {
    return {.block = 1, .reserved = 0, .offset = offset, .length = length, .cookie = cookie};
}

// A piece that must be there.
Part next(OpQueue& queue, std::uint32_t limit) {
    const auto part = queue.take(limit);
    EXPECT_TRUE(part);
    return part.value_or(Part{});
}

TEST(OpQueue, AnExtentIsCutIntoPiecesAndIsDoneWithItsLast) {
    OpQueue queue{2};
    queue.submit(extent(0x100000, 10'000, 42), memory.data());
    const Part first = next(queue, 4096);
    const Part second = next(queue, 4096);
    EXPECT_EQ(queue.taken_through(), 0U);
    const Part third = next(queue, 4096);
    EXPECT_EQ(queue.taken_through(), 1U);
    EXPECT_EQ(second.piece, (Piece{.offset = 0x101000, .block = 1, .length = 4096}));
    EXPECT_EQ(second.address, memory.data() + 4096);
    EXPECT_EQ(third.piece.length, 10'000U - 8192U);
    EXPECT_FALSE(queue.take(4096));
    EXPECT_TRUE(queue.idle());
    EXPECT_FALSE(queue.finish(third)) << "lanes finish in any order";
    EXPECT_FALSE(queue.finish(first));
    EXPECT_EQ(queue.finish(second), 42U);
}

TEST(OpQueue, OldestFirstAndFullUntilReleased) {
    OpQueue queue{2};
    queue.submit(extent(0, 100, 1), memory.data());
    queue.submit(extent(200, 100, 2), memory.data() + 200);
    EXPECT_TRUE(queue.full());
    EXPECT_EQ(queue.waiting_bytes(), 200U);
    const Part one = next(queue, 1000);
    const Part two = next(queue, 1000);
    EXPECT_EQ(queue.finish(two), 2U);
    EXPECT_EQ(queue.finish(one), 1U);
    EXPECT_TRUE(queue.full()) << "a completion not fetched still counts";
    queue.release(one.slot);
    EXPECT_FALSE(queue.full());
    queue.submit(extent(300, 1, 3), memory.data());
    EXPECT_EQ(next(queue, 1).slot, one.slot);
}

} // namespace
} // namespace pageferry::tcp
