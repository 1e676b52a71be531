#include "engine/pending_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace pageferry::engine {
namespace {

constexpr std::uint64_t page = 4096;

std::vector<memory::RamBlock> make_blocks(std::initializer_list<std::uint64_t> pages) {
    std::vector<memory::RamBlock> blocks;
    for (const auto count : pages) {
        Fd file{::memfd_create("pending-pages-test", MFD_CLOEXEC)};
        EXPECT_EQ(::ftruncate(file.get(), static_cast<off_t>(count * page)), 0);
        auto block = memory::RamBlock::map(
            {.name = "ram" + std::to_string(blocks.size()), .length = count * page, .page_size = page}, std::move(file));
        EXPECT_TRUE(block) << block.error().to_string();
        blocks.push_back(std::move(*block));
    }
    return blocks;
}

TEST(PendingPages, CountsAPageOnce) {
    const auto blocks = make_blocks({100});
    PendingPages pending{blocks};
    EXPECT_TRUE(pending.empty());
    pending.add({.block = 0, .extent = {.offset = 10 * page, .length = 5 * page}});
    pending.add({.block = 0, .extent = {.offset = 12 * page, .length = 5 * page}});
    EXPECT_EQ(pending.bytes(), 7 * page);
}

TEST(PendingPages, GivesRunsNoLongerThanTheLimitButAtLeastAPage) {
    const auto blocks = make_blocks({100});
    PendingPages pending{blocks};
    pending.add({.block = 0, .extent = {.offset = 0, .length = 10 * page}});
    EXPECT_EQ(pending.take(4 * page)->extent.length, 4 * page);
    EXPECT_EQ(pending.take(1)->extent.length, page);
    EXPECT_EQ(pending.take(100 * page)->extent.length, 5 * page);
    EXPECT_FALSE(pending.take(page));
    EXPECT_TRUE(pending.empty());
}

// Whatever is added and put back in between, every page comes out exactly as often as it went in.
TEST(PendingPages, LosesNothingOverManyRounds) {
    const auto blocks = make_blocks({1000, 1, 64, 777});
    PendingPages pending{blocks};
    std::mt19937_64 random{20261122};
    std::set<std::pair<std::size_t, std::uint64_t>> expected;
    const auto mark = [&](const memory::BlockExtent& extent) {
        pending.add(extent);
        for (std::uint64_t offset = 0; offset < extent.extent.length; offset += page) {
            expected.emplace(extent.block, (extent.extent.offset + offset) / page);
        }
    };
    for (int step = 0; step < 5000; ++step) {
        if (random() % 3 == 0) {
            const std::size_t block = random() % blocks.size();
            const std::uint64_t first = random() % blocks[block].pages();
            const std::uint64_t count = 1 + random() % std::min<std::uint64_t>(blocks[block].pages() - first, 40);
            mark({.block = block, .extent = {.offset = first * page, .length = count * page}});
        } else if (const auto taken = pending.take((1 + random() % 20) * page)) {
            if (random() % 10 == 0) {
                pending.add(*taken); // its push failed
                continue;
            }
            for (std::uint64_t offset = 0; offset < taken->extent.length; offset += page) {
                EXPECT_EQ(expected.erase({taken->block, (taken->extent.offset + offset) / page}), 1U);
            }
        }
        ASSERT_EQ(pending.bytes(), expected.size() * page);
    }
    while (const auto taken = pending.take(1 << 20)) {
        for (std::uint64_t offset = 0; offset < taken->extent.length; offset += page) {
            EXPECT_EQ(expected.erase({taken->block, (taken->extent.offset + offset) / page}), 1U);
        }
    }
    EXPECT_TRUE(expected.empty());
}

} // namespace
} // namespace pageferry::engine
