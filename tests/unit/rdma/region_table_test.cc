// Which stretches of RAM are registered together, and which never are.
#include "rdma/region_table.h"

#include <gtest/gtest.h>

#include <array>
#include <string>

namespace pageferry::rdma {
namespace {

constexpr std::uint64_t MiB = std::uint64_t{1} << 20;
constexpr std::uint64_t page = 4096;
constexpr std::uint64_t no_limit = ~std::uint64_t{0};

// Never touched: only addresses are reckoned with.
std::byte* const low = reinterpret_cast<std::byte*>(std::uintptr_t{0x10000000});
std::byte* const high = reinterpret_cast<std::byte*>(std::uintptr_t{0x7f0000000000});

Block block(std::uint32_t number, std::byte* address, std::uint64_t length) {
    return {.number = number, .name = "ram", .address = address, .length = length, .access = PF_MEMORY_PUSH_SOURCE};
}

class RdmaRegionTable : public testing::Test {
protected:
    RegionTable make(std::uint64_t largest = no_limit) { return RegionTable{blocks_, largest}; }

    // "offset+length offset+length ..." in MiB, of the regions that were added
    static std::string covered(RegionTable& table, std::uint32_t number, std::uint64_t offset, std::uint64_t length) {
        std::vector<std::uint32_t> added;
        table.cover(number, offset, length, added);
        std::string text;
        for (const std::uint32_t one : added) {
            const Region& region = *table.at(one);
            EXPECT_EQ(region.number, one);
            EXPECT_EQ(region.block, number);
            text += (text.empty() ? "" : " ") + std::to_string(region.offset / MiB) + "+" + std::to_string(region.length / MiB);
        }
        return text;
    }

    const std::array<Block, 2> blocks_{block(0, low, 200 * MiB), block(5, high, (5 * MiB) + page)};
};

TEST_F(RdmaRegionTable, AByteMakesOneGranule) {
    RegionTable table = make();
    EXPECT_EQ(covered(table, 0, (6 * MiB) + 1, 1), "6+2");
    EXPECT_EQ(covered(table, 0, 8 * MiB - 1, 1), "") << "covered already";
    const Region* const region = table.find(0, 7 * MiB);
    ASSERT_NE(region, nullptr);
    EXPECT_EQ(region->address, low + 6 * MiB);
    EXPECT_EQ(region->access, PF_MEMORY_PUSH_SOURCE);
    EXPECT_EQ(region->end(), 8 * MiB);
    EXPECT_FALSE(region->ready());
}

TEST_F(RdmaRegionTable, LongStretchesAreCutIntoChunks) {
    RegionTable table = make();
    EXPECT_EQ(covered(table, 0, 0, 200 * MiB), "0+64 64+64 128+64 192+8");
    EXPECT_EQ(table.size(), 4U);
}

TEST_F(RdmaRegionTable, ChunksBeginAtTheirOwnBorders) {
    RegionTable table = make();
    EXPECT_EQ(covered(table, 0, 60 * MiB, 10 * MiB), "60+4 64+6");
}

TEST_F(RdmaRegionTable, NoRegionIsLargerThanTheDeviceTakes) {
    RegionTable small = make(11 * MiB);
    EXPECT_EQ(covered(small, 0, 0, 30 * MiB), "0+10 10+10 20+10");
    RegionTable odd = make(64 * MiB - 1);
    EXPECT_EQ(covered(odd, 0, 0, 100 * MiB), "0+62 62+38");
    RegionTable smallest = make(2 * MiB);
    EXPECT_EQ(covered(smallest, 0, 0, 6 * MiB), "0+2 2+2 4+2");
}

TEST_F(RdmaRegionTable, ABlocksLastRegionEndsWithIt) {
    RegionTable table = make();
    std::vector<std::uint32_t> added;
    table.cover(5, 5 * MiB, page, added);
    ASSERT_EQ(added.size(), 1U);
    const Region& region = *table.at(added[0]);
    EXPECT_EQ(region.offset, 4 * MiB);
    EXPECT_EQ(region.length, MiB + page);
    EXPECT_EQ(region.address, high + 4 * MiB);
    EXPECT_NE(table.find(5, 5 * MiB + page - 1), nullptr);
    EXPECT_EQ(table.find(5, 5 * MiB + page), nullptr) << "beyond the block";
}

TEST_F(RdmaRegionTable, HolesAreLeftAlone) {
    RegionTable table = make();
    EXPECT_EQ(covered(table, 0, 0, page), "0+2");
    EXPECT_EQ(covered(table, 0, 10 * MiB, page), "10+2");
    EXPECT_EQ(table.find(0, 2 * MiB), nullptr);
    EXPECT_EQ(table.find(0, 10 * MiB - 1), nullptr);
    EXPECT_EQ(table.find(0, 12 * MiB), nullptr);
}

TEST_F(RdmaRegionTable, OnlyWhatIsNotCoveredYetIsAdded) {
    RegionTable table = make();
    EXPECT_EQ(covered(table, 0, 4 * MiB, 4 * MiB), "4+4");
    EXPECT_EQ(covered(table, 0, 20 * MiB, 2 * MiB), "20+2");
    EXPECT_EQ(covered(table, 0, 0, 70 * MiB), "0+4 8+12 22+42 64+6");
    EXPECT_EQ(covered(table, 0, 0, 70 * MiB), "");
    EXPECT_EQ(table.size(), 6U);
}

TEST_F(RdmaRegionTable, EveryByteIsInTheRegionThatSaysSo) {
    RegionTable table = make(6 * MiB);
    std::vector<std::uint32_t> added;
    table.cover(0, 3 * MiB, 50 * MiB, added);
    table.cover(0, 1 * MiB, 120 * MiB, added);
    for (std::uint64_t at = 0; at < 122 * MiB; at += MiB / 2) {
        const Region* const region = table.find(0, at);
        ASSERT_NE(region, nullptr) << at;
        EXPECT_GE(at, region->offset);
        EXPECT_LT(at, region->end());
        EXPECT_EQ(region->address, low + region->offset);
        EXPECT_LE(region->length, 6 * MiB);
    }
}

TEST_F(RdmaRegionTable, RegionsStayWhereTheyAre) {
    RegionTable table = make(2 * MiB);
    std::vector<std::uint32_t> added;
    table.cover(0, 0, 1, added);
    Region* const first = table.at(0);
    first->local_ready = first->remote_ready = true;
    table.cover(0, 0, 200 * MiB, added);
    EXPECT_EQ(added.size(), 100U);
    EXPECT_EQ(table.at(0), first);
    EXPECT_TRUE(table.find(0, 0)->ready());
    EXPECT_FALSE(table.find(0, 2 * MiB)->ready());
}

TEST_F(RdmaRegionTable, KnowsNothingOfOtherBlocksAndNumbers) {
    RegionTable table = make();
    EXPECT_EQ(covered(table, 3, 0, page), "");
    EXPECT_EQ(covered(table, 6, 0, page), "");
    EXPECT_EQ(covered(table, 0, 0, 0), "");
    EXPECT_EQ(table.find(3, 0), nullptr);
    EXPECT_EQ(table.find(6, 0), nullptr);
    EXPECT_EQ(table.at(0), nullptr);
    EXPECT_EQ(table.find(0, no_limit), nullptr);
}

} // namespace
} // namespace pageferry::rdma
