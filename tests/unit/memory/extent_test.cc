#include "memory/extent.h"

#include "hypervisor_process.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

using namespace pageferry;
using namespace pageferry::memory;
using pageferry::memory::testing::HugePages;
using pageferry::memory::testing::make_ram_file;

namespace {

constexpr std::uint64_t small = 4096;
constexpr std::uint64_t huge = std::uint64_t{2} << 20;

RamBlock make_block(std::uint64_t page_size, std::uint64_t pages, std::uint64_t offset_pages = 0) {
    auto block = RamBlock::map({.name = "ram", .length = pages * page_size, .file_offset = offset_pages * page_size},
                               make_ram_file(page_size, (pages + 2 * offset_pages) * page_size));
    EXPECT_TRUE(block) << block.error().to_string();
    return std::move(*block);
}

// As the brute force has it: a page for a bit.
std::vector<bool> paint(const std::vector<Extent>& extents, std::size_t size) {
    std::vector<bool> bits(size);
    for (const Extent& extent : extents) {
        for (std::uint64_t i = extent.offset; i < extent.offset + extent.length; ++i) {
            bits[i] = true;
        }
    }
    return bits;
}

std::vector<Extent> random_extents(std::mt19937& random, std::uint64_t size) {
    std::vector<Extent> extents;
    for (std::uint64_t at = random() % 5; at < size;) {
        const std::uint64_t length = std::min<std::uint64_t>(1 + random() % 9, size - at);
        extents.push_back({at, length});
        at += length + random() % 6; // they may touch
    }
    return extents;
}

TEST(Extents, SubtractAgreesWithBruteForce) {
    std::mt19937 random{3};
    for (int round = 0; round < 2000; ++round) {
        const auto a = random_extents(random, 64);
        const auto b = random_extents(random, 64);
        const auto rest = subtract(a, b);
        auto expected = paint(a, 64);
        const auto cut = paint(b, 64);
        std::uint64_t total = 0;
        for (std::size_t i = 0; i < 64; ++i) {
            expected[i] = expected[i] && !cut[i];
            total += expected[i] ? 1 : 0;
        }
        ASSERT_EQ(paint(rest, 64), expected);
        ASSERT_EQ(total_length(rest), total);
        for (std::size_t i = 1; i < rest.size(); ++i) {
            ASSERT_LE(rest[i - 1].offset + rest[i - 1].length, rest[i].offset);
        }
    }
}

TEST(Extents, SubtractCorners) {
    const std::vector<Extent> one{{0, 100}};
    EXPECT_EQ(subtract(one, {}), one);
    EXPECT_TRUE(subtract({}, one).empty());
    EXPECT_TRUE(subtract(one, one).empty());
    EXPECT_EQ(subtract(one, std::vector<Extent>{{10, 10}, {90, 50}}), (std::vector<Extent>{{0, 10}, {20, 70}}));
    EXPECT_EQ(subtract(std::vector<Extent>{{0, 10}, {20, 10}}, std::vector<Extent>{{5, 20}}),
              (std::vector<Extent>{{0, 5}, {25, 5}}));
}

class DataExtents : public ::testing::TestWithParam<std::uint64_t> {
protected:
    void SetUp() override {
        if (GetParam() == huge && !reserved_.available()) {
            GTEST_SKIP() << "no huge pages can be reserved here";
        }
    }
    HugePages reserved_{GetParam() == huge ? std::uint64_t{24} : std::uint64_t{0}};
};

TEST_P(DataExtents, AreWhatWasWritten) {
    const std::uint64_t page = GetParam();
    const RamBlock block = make_block(page, 16, 2);
    ASSERT_TRUE(data_extents(block));
    EXPECT_TRUE(data_extents(block)->empty());
    for (const std::uint64_t i : {0U, 1U, 5U, 14U, 15U}) {
        block.alias()[i * page + 17] = std::byte{1};
    }
    EXPECT_EQ(data_extents(block).value(), (std::vector<Extent>{{0, 2 * page}, {5 * page, page}, {14 * page, 2 * page}}));
}

// Data before and after the block in the same file is not the block's.
TEST_P(DataExtents, StayWithinTheBlock) {
    const std::uint64_t page = GetParam();
    Fd file = make_ram_file(page, 6 * page);
    auto whole = RamBlock::map({.name = "file", .length = 6 * page}, file.duplicate());
    auto part = RamBlock::map({.name = "part", .length = 2 * page, .file_offset = 2 * page}, std::move(file));
    ASSERT_TRUE(whole && part);
    for (const std::uint64_t i : {0U, 1U, 4U, 5U}) {
        whole->alias()[i * page] = std::byte{1};
    }
    EXPECT_TRUE(data_extents(*part)->empty());
    whole->alias()[3 * page] = std::byte{1};
    EXPECT_EQ(data_extents(*part).value(), (std::vector<Extent>{{page, page}}));
    whole->alias()[2 * page] = std::byte{1};
    EXPECT_EQ(data_extents(*part).value(), (std::vector<Extent>{{0, 2 * page}}));
}

TEST_P(DataExtents, LookingFillsNothing) {
    const std::uint64_t page = GetParam();
    const RamBlock block = make_block(page, 8);
    block.alias()[3 * page] = std::byte{1};
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(data_extents(block).value(), (std::vector<Extent>{{3 * page, page}}));
    }
}

TEST_P(DataExtents, DiscardMakesZeros) {
    const std::uint64_t page = GetParam();
    const RamBlock block = make_block(page, 8);
    for (std::uint64_t i = 0; i < 6; ++i) {
        std::memset(block.alias() + i * page, 0xab, page);
    }
    ASSERT_TRUE(discard(block, {page, 2 * page}));
    ASSERT_TRUE(discard(block, {5 * page, 3 * page})); // partly a hole already
    if (page == small) {
        EXPECT_EQ(data_extents(block).value(), (std::vector<Extent>{{0, page}, {3 * page, 2 * page}}));
    } else {
        // The huge pages stay, zeroed; what was a hole is one still.
        EXPECT_EQ(data_extents(block).value(), (std::vector<Extent>{{0, 6 * page}}));
    }
    for (std::uint64_t i = 0; i < 8; ++i) {
        const bool zero = i == 1 || i == 2 || i >= 5;
        for (const std::uint64_t at : {std::uint64_t{0}, page / 2, page - 1}) {
            ASSERT_EQ(block.alias()[i * page + at], zero ? std::byte{0} : std::byte{0xab}) << i;
        }
    }
}

TEST_P(DataExtents, DiscardRefusesWhatIsNotWholePagesOfTheBlock) {
    const std::uint64_t page = GetParam();
    const RamBlock block = make_block(page, 4);
    for (const Extent bad : {Extent{1, page}, Extent{0, page - 1}, Extent{0, 0}, Extent{3 * page, 2 * page},
                             Extent{9 * page, page}, Extent{page, ~(page - 1)}}) {
        const auto result = discard(block, bad);
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().code, ErrorCode::invalid_argument);
    }
}

INSTANTIATE_TEST_SUITE_P(Pages, DataExtents, ::testing::Values(small, huge),
                         [](const auto& parameter) { return parameter.param == small ? "Small" : "Huge"; });

} // namespace
