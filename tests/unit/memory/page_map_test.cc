#include "memory/page_map.h"

#include "memory/page_map_layout.h"

#include "hypervisor_process.h"

#include <gtest/gtest.h>

#include <thread>
#include <unistd.h>

using namespace pageferry;
using namespace pageferry::memory;

namespace {

constexpr std::uint64_t small = 4096;
constexpr std::uint64_t huge = std::uint64_t{2} << 20;

std::vector<RamBlockInfo> infos() {
    return {{.name = "pc.ram", .length = 1000 * small, .page_size = small},
            {.name = "dimm1", .length = 5 * huge, .page_size = huge},
            {.name = "rom", .length = 64 * small, .page_size = small}};
}

Fd file_for(std::uint64_t bytes) {
    return memory::testing::make_ram_file(small, bytes);
}

class PageMapTest : public ::testing::Test {
protected:
    PageMap map() { return std::move(PageMap::map(infos(), file_).value()); }

    Fd file_ = file_for(page_map_bytes(infos()));
};

TEST_F(PageMapTest, AnEmptyFileHasReceivedNothing) {
    EXPECT_EQ(page_map_bytes(infos()), 2 * 8 * (16 + 1 + 1));
    PageMap pages = map();
    EXPECT_EQ(pages.blocks(), 3U);
    EXPECT_EQ(pages.page_size(1), huge);
    EXPECT_EQ(pages.received(0).pages(), 1000U);
    EXPECT_EQ(pages.wanted(1).pages(), 5U);
    EXPECT_EQ(pages.received(0).count() + pages.received(1).count() + pages.received(2).count(), 0U);
    EXPECT_EQ(pages.missing_bytes(), 1064 * small + 5 * huge);
}

TEST_F(PageMapTest, WhatIsNewCountsAndIsNoLongerWanted) {
    PageMap pages = map();
    pages.wanted(0).set_run({0, 100});
    EXPECT_EQ(pages.received_run(0, {10, 20}), 20U);
    EXPECT_EQ(pages.received_run(0, {20, 20}), 10U);
    EXPECT_EQ(pages.received_run(0, {20, 20}), 0U);
    EXPECT_EQ(pages.received_run(1, {4, 100}), 1U); // there is no page beyond
    EXPECT_EQ(pages.wanted(0).next_clear_run(0, 100), (PageRun{10, 30}));
    EXPECT_EQ(pages.wanted(0).count(), 70U);
    EXPECT_EQ(pages.missing_bytes(), (1064 - 30) * small + 4 * huge);
}

TEST_F(PageMapTest, APostcopyBeginsWithNothing) {
    PageMap pages = map();
    pages.wanted(2).set(3);
    pages.received_run(0, {0, 10});
    pages.received_run(1, {4, 1});
    pages.clear();
    EXPECT_EQ(pages.missing_bytes(), 1064 * small + 5 * huge);
    EXPECT_EQ(pages.wanted(2).count(), 0U);
    EXPECT_EQ(pages.received(0).count() + pages.received(1).count(), 0U);
}

TEST_F(PageMapTest, OfAWordWhatWasWantedIsTold) {
    PageMap pages = map();
    pages.received_run(0, {64, 1});
    pages.wanted(0).set(66);
    pages.wanted(0).set(70);
    EXPECT_EQ(pages.received_in_word(0, 1, 0b1111), 0b0100U);
    EXPECT_EQ(pages.missing_bytes(), (1064 - 4) * small + 5 * huge);
    EXPECT_EQ(pages.received_in_word(0, 1, 0b1111), 0U);
    EXPECT_EQ(pages.missing_bytes(), (1064 - 4) * small + 5 * huge);
    EXPECT_TRUE(pages.wanted(0).test(70));
    EXPECT_EQ(pages.received_in_word(1, 0, ~0ULL), 0U); // five pages, and none beyond
    EXPECT_EQ(pages.received_in_word(1, 1, ~0ULL), 0U);
    EXPECT_EQ(pages.missing_bytes(), (1064 - 4) * small);
}

TEST_F(PageMapTest, TheNextProcessGoesOnWhereTheLastStopped) {
    {
        PageMap pages = map();
        pages.received_run(0, {0, 900});
        pages.received_run(1, {1, 1});
        pages.wanted(0).set(950);
    }
    PageMap pages = map();
    EXPECT_EQ(pages.missing_bytes(), 164 * small + 4 * huge);
    EXPECT_TRUE(pages.received(1).test(1));
    EXPECT_TRUE(pages.wanted(0).test(950));
    PageMap moved = std::move(pages);
    EXPECT_EQ(moved.received_run(0, {899, 2}), 1U);
    pages = map(); // beside it: the same words
    EXPECT_TRUE(pages.received(0).test(900));
}

TEST_F(PageMapTest, ManyThreadsCountEachPageOnce) {
    PageMap pages = map();
    std::vector<std::thread> threads;
    std::atomic<std::uint64_t> fresh{0};
    for (std::uint64_t thread = 0; thread < 4; ++thread) {
        threads.emplace_back([&, thread] {
            for (std::uint64_t page = 0; page < 1000; ++page) {
                fresh += pages.received_run(0, {(page + thread * 250) % 1000, 3});
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    EXPECT_EQ(fresh, 1000U);
    EXPECT_EQ(pages.missing_bytes(), 64 * small + 5 * huge);
}

TEST_F(PageMapTest, SaysWhatIsWrongWithTheFile) {
    const auto shorter = PageMap::map(infos(), file_for(page_map_bytes(infos()) - 1));
    ASSERT_FALSE(shorter);
    EXPECT_EQ(shorter.error().code, ErrorCode::invalid_argument);
    EXPECT_NE(shorter.error().to_string().find("287 bytes, and needs 288"), std::string::npos) << shorter.error().to_string();
    EXPECT_FALSE(PageMap::map(infos(), Fd{}));
    std::vector<RamBlockInfo> unknown = infos();
    unknown[1].page_size = 0;
    const auto refused = PageMap::map(unknown, file_);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().to_string().find("dimm1"), std::string::npos) << refused.error().to_string();
}

TEST_F(PageMapTest, NoBlocksAtAll) {
    const auto pages = PageMap::map({}, file_for(0));
    ASSERT_TRUE(pages) << pages.error().to_string();
    EXPECT_EQ(pages->missing_bytes(), 0U);
}

} // namespace
