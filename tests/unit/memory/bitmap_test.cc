#include "memory/bitmap.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>
#include <vector>

using namespace pageferry::memory;

namespace {

TEST(Bitmap, BeginsClearAndHasItsPagesOnly) {
    Bitmap bitmap{70};
    EXPECT_EQ(bitmap.pages(), 70U);
    EXPECT_EQ(bitmap.count(), 0U);
    EXPECT_FALSE(bitmap.next_set_run(0, 100));
    EXPECT_EQ(bitmap.next_clear_run(0, 100), (PageRun{0, 70}));
    EXPECT_FALSE(bitmap.set(70));
    EXPECT_FALSE(bitmap.test(70));
    EXPECT_EQ(bitmap.set_run({60, ~std::uint64_t{0}}), 10U);
    EXPECT_EQ(bitmap.set_run({1000, 5}), 0U);
    EXPECT_EQ(bitmap.count(), 10U);
}

TEST(Bitmap, SetAndClearSayWhatChanged) {
    Bitmap bitmap{200};
    EXPECT_TRUE(bitmap.set(63));
    EXPECT_FALSE(bitmap.set(63));
    EXPECT_EQ(bitmap.set_run({60, 10}), 9U);
    EXPECT_TRUE(bitmap.clear(65));
    EXPECT_FALSE(bitmap.clear(65));
    EXPECT_EQ(bitmap.clear_run({0, 200}), 9U);
    EXPECT_EQ(bitmap.set_run({10, 0}), 0U);
}

TEST(Bitmap, WordsSayWhatChanged) {
    Bitmap bitmap{70};
    bitmap.set(1);
    EXPECT_EQ(bitmap.set_in_word(0, 0b110), 0b100U);
    EXPECT_EQ(bitmap.set_in_word(1, ~0ULL), 0b111111U) << "six pages, and none beyond";
    EXPECT_EQ(bitmap.set_in_word(2, ~0ULL), 0U);
    EXPECT_EQ(bitmap.count(), 8U);
    EXPECT_EQ(bitmap.clear_in_word(0, 0b1010), 0b10U);
    EXPECT_EQ(bitmap.clear_in_word(1, ~0ULL), 0b111111U);
    EXPECT_EQ(bitmap.clear_in_word(9, ~0ULL), 0U);
    EXPECT_EQ(bitmap.next_set_run(0, 100), (PageRun{2, 1}));
}

TEST(Bitmap, RunsCrossWordsAndKeepToTheLimit) {
    Bitmap bitmap{300};
    bitmap.set_run({50, 200});
    EXPECT_EQ(bitmap.next_set_run(0, 1000), (PageRun{50, 200}));
    EXPECT_EQ(bitmap.next_set_run(0, 64), (PageRun{50, 64}));
    EXPECT_EQ(bitmap.next_set_run(100, 1000), (PageRun{100, 150}));
    EXPECT_EQ(bitmap.next_clear_run(50, 1000), (PageRun{250, 50}));
    EXPECT_FALSE(bitmap.next_set_run(250, 1000));
    EXPECT_FALSE(bitmap.next_set_run(0, 0));
    EXPECT_FALSE(bitmap.next_set_run(300, 10));
}

TEST(Bitmap, UsesTheOwnersMemoryAsItIs) {
    std::vector<Bitmap::Word> words(2);
    words[0] = 6;
    words[1] = ~std::uint64_t{0};
    const Bitmap bitmap{68, words};
    EXPECT_EQ(bitmap.count(), 6U); // not what stands after the last page
    EXPECT_EQ(bitmap.next_set_run(0, 99), (PageRun{1, 2}));
    EXPECT_EQ(bitmap.next_set_run(3, 99), (PageRun{64, 4}));
    const Bitmap too_small{1000, words}; // the memory decides
    EXPECT_EQ(too_small.pages(), 128U);
}

TEST(Bitmap, AgreesWithAPlainArrayUnderRandomRuns) {
    std::mt19937 random{7};
    for (const std::uint64_t pages : {1U, 63U, 64U, 65U, 127U, 128U, 1000U}) {
        Bitmap bitmap{pages};
        std::vector<bool> model(pages);
        for (int step = 0; step < 500; ++step) {
            const PageRun run{random() % pages, random() % (pages + 1)};
            const bool value = random() % 2 != 0;
            std::uint64_t changed = 0;
            for (std::uint64_t page = run.first; page < std::min(pages, run.first + run.count); ++page) {
                changed += model[page] != value ? 1 : 0;
                model[page] = value;
            }
            ASSERT_EQ(value ? bitmap.set_run(run) : bitmap.clear_run(run), changed);
            std::uint64_t page = 0;
            for (std::uint64_t from = 0; from < pages;) {
                const auto found = bitmap.next_set_run(from, pages);
                for (; page < (found ? found->first : pages); ++page) {
                    ASSERT_FALSE(model[page]);
                }
                for (; found && page < found->first + found->count; ++page) {
                    ASSERT_TRUE(model[page]);
                }
                from = found ? found->first + found->count : pages;
            }
            ASSERT_EQ(bitmap.count(), static_cast<std::uint64_t>(std::count(model.begin(), model.end(), true)));
        }
    }
}

TEST(Bitmap, EachPageIsWonByOneThread) {
    constexpr std::uint64_t pages = 4096;
    Bitmap bitmap{pages};
    std::atomic<std::uint64_t> won{0};
    {
        std::vector<std::jthread> threads;
        for (std::uint64_t i = 0; i < 4; ++i) {
            threads.emplace_back([&, i] {
                std::mt19937 random{static_cast<std::uint32_t>(i)};
                for (int step = 0; step < 20'000; ++step) {
                    won += bitmap.set_run({random() % pages, random() % 100});
                    won += bitmap.set(random() % pages) ? 1 : 0;
                }
            });
        }
    }
    EXPECT_EQ(won.load(), bitmap.count());
}

} // namespace
