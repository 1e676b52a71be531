#include "engine/postcopy/fault_stats.h"

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <thread>

namespace pageferry::engine {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;

const FaultStats::Clock::time_point start{std::chrono::hours{1}};

class FaultStatsTest : public ::testing::Test {
protected:
    static constexpr std::array<std::uint32_t, 3> threads{700, 300, 500};
    static constexpr std::uint32_t main_loop = 299;

    void begin(std::uint64_t page, std::uint32_t thread, std::uint64_t us, std::size_t block = 0) {
        stats_->begin({.block = block, .page = page, .thread = thread}, start + microseconds{us});
    }
    void ended(memory::PageRun run, std::uint64_t us, std::size_t block = 0) {
        stats_->ended(block, run, start + microseconds{us});
    }
    [[nodiscard]] std::uint64_t in_buckets() const {
        std::uint64_t sum = 0;
        for (const auto& bucket : figures_->latency) {
            sum += bucket;
        }
        return sum;
    }

    std::unique_ptr<Postcopy> figures_ = std::make_unique<Postcopy>();
    std::unique_ptr<FaultStats> stats_ = std::make_unique<FaultStats>(*figures_, threads);
};

TEST_F(FaultStatsTest, AFaultIsFromBeginToEnded) {
    EXPECT_EQ(figures_->vcpus, 3U);
    begin(5, main_loop, 0);
    begin(9, 300, 2);
    ended({5, 1}, 10);
    ended({9, 1}, 42);
    ended({5, 5}, 50); // nobody waits any more
    EXPECT_EQ(figures_->latency_faults, 2U);
    EXPECT_EQ(figures_->latency_ns, 50'000U);
    EXPECT_EQ(figures_->other_faults, 1U);
    EXPECT_EQ(figures_->other_latency_ns, 10'000U);
    EXPECT_EQ(figures_->vcpu[1].faults, 1U);
    EXPECT_EQ(figures_->vcpu[1].latency_ns, 40'000U);
    EXPECT_EQ(figures_->vcpu[1].blocked_ns, 40'000U);
    EXPECT_EQ(figures_->latency[3], 1U);
    EXPECT_EQ(figures_->latency[5], 1U);
    EXPECT_EQ(figures_->blocked_ns, 0U); // the other two ran
}

TEST_F(FaultStatsTest, BucketsArePowersOfTwo) {
    const std::array<std::pair<nanoseconds, std::size_t>, 8> all{{{nanoseconds{0}, 0},
                                                                  {nanoseconds{999}, 0},
                                                                  {nanoseconds{1999}, 0},
                                                                  {nanoseconds{2000}, 1},
                                                                  {nanoseconds{4095'999}, 11},
                                                                  {nanoseconds{4096'000}, 12},
                                                                  {std::chrono::seconds{16}, 23},
                                                                  {std::chrono::hours{3}, 23}}};
    for (const auto& [latency, bucket] : all) {
        const std::uint64_t before = figures_->latency.at(bucket);
        stats_->begin({.block = 1, .page = 2, .thread = 0}, start);
        stats_->ended(1, {2, 1}, start + latency);
        EXPECT_EQ(figures_->latency.at(bucket), before + 1) << latency.count();
    }
    stats_->begin({.block = 1, .page = 2, .thread = 0}, start);
    stats_->ended(1, {2, 1}, start - nanoseconds{5}); // another thread's clock was read earlier
    EXPECT_EQ(figures_->latency[0], 4U);
}

TEST_F(FaultStatsTest, EveryThreadThatWaitsForAPageIsAFault) {
    begin(7, 300, 0);
    begin(7, 500, 10);
    begin(7, main_loop, 20);
    begin(7, 300, 25); // a signal called it away, and it is back: still the first one
    begin(7, main_loop, 26);
    begin(7, 0, 27); // the kernel does not say who: each is one
    begin(7, 0, 28);
    begin(7, 300, 28, 1); // page 7 of another block: then it no longer waits for the former
    ended({7, 1}, 30);
    EXPECT_EQ(figures_->latency_faults, 5U);
    EXPECT_EQ(figures_->latency_ns, (30 + 20 + 10 + 3 + 2) * 1000U);
    EXPECT_EQ(figures_->vcpu[1].blocked_ns, 28'000U); // and it still waits
    ended({7, 1}, 40, 1);
    EXPECT_EQ(figures_->vcpu[1].blocked_ns, 40'000U);
    EXPECT_EQ(figures_->vcpu[1].faults, 2U);
}

TEST_F(FaultStatsTest, RunsEndWhatIsInThemAndNothingElse) {
    for (const std::uint64_t count : {100U, 100'000U}) { // page by page, and by all slots
        const std::uint64_t before = figures_->latency_faults;
        begin(999, 0, 0);
        begin(1000, 0, 0);
        begin(1000 + count - 1, 0, 0);
        begin(1000 + count, 0, 0);
        begin(1000, 0, 0, 1);
        ended({1000, count}, 10);
        EXPECT_EQ(figures_->latency_faults, before + 2);
        ended({0, 1'000'000}, 10);
        EXPECT_EQ(figures_->latency_faults, before + 4);
        ended({0, 1'000'000}, 10, 1);
        EXPECT_EQ(figures_->latency_faults, before + 5);
    }
}

TEST_F(FaultStatsTest, BlockedIsWhenAllWait) {
    begin(1, 700, 0);
    begin(2, 300, 10);
    begin(3, 500, 20); // all
    ended({2, 1}, 50); // one goes on
    begin(4, 300, 60); // all
    begin(9, main_loop, 65);
    ended({9, 1}, 66);
    ended({1, 4}, 100);
    EXPECT_EQ(figures_->blocked_ns, (30 + 40) * 1000U);
    EXPECT_EQ(figures_->vcpu[0].blocked_ns, 100'000U);
    EXPECT_EQ(figures_->vcpu[1].blocked_ns, (40 + 40) * 1000U);
    EXPECT_EQ(figures_->vcpu[2].blocked_ns, 80'000U);
    EXPECT_EQ(figures_->vcpu[0].faults, 1U);
    EXPECT_EQ(figures_->vcpu[1].faults, 2U);
}

TEST_F(FaultStatsTest, AProcessorCalledAwayWaitsForItsLastPageOnly) {
    begin(1, 700, 0);
    begin(2, 300, 0);
    begin(3, 500, 0); // all
    begin(4, 700, 10);
    ended({1, 1}, 20); // nobody's any more
    EXPECT_EQ(figures_->blocked_ns, 0U);
    ended({4, 1}, 30);
    EXPECT_EQ(figures_->blocked_ns, 30'000U);
    EXPECT_EQ(figures_->vcpu[0].blocked_ns, 30'000U);
    begin(5, 700, 40); // and back again, twice
    begin(6, 700, 41);
    begin(5, 700, 42);
    ended({6, 1}, 50);
    ended({5, 1}, 60);
    EXPECT_EQ(figures_->blocked_ns, 50'000U);
    EXPECT_EQ(figures_->vcpu[0].blocked_ns, 50'000U);
}

TEST_F(FaultStatsTest, APauseSaysNothingAboutLatency) {
    begin(1, 700, 0);
    begin(2, 300, 0);
    begin(3, 500, 0);
    begin(4, main_loop, 0);
    stats_->paused();
    ended({1, 4}, 5'000'000);
    EXPECT_EQ(figures_->latency_faults, 0U);
    EXPECT_EQ(in_buckets(), 0U);
    EXPECT_EQ(figures_->vcpu[0].faults, 0U);
    EXPECT_EQ(figures_->other_faults, 0U);
    EXPECT_EQ(figures_->blocked_ns, 5'000'000'000U);
    EXPECT_EQ(figures_->vcpu[2].blocked_ns, 5'000'000'000U);
    begin(1, 700, 5'000'000);
    ended({1, 1}, 5'000'008);
    EXPECT_EQ(figures_->latency_faults, 1U);
}

TEST_F(FaultStatsTest, NoProcessorsKnown) {
    FaultStats stats{*figures_, {}};
    EXPECT_EQ(figures_->vcpus, 0U);
    stats.begin({.block = 0, .page = 1, .thread = 700}, start);
    stats.ended(0, {1, 1}, start + microseconds{9});
    EXPECT_EQ(figures_->other_faults, 1U);
    EXPECT_EQ(figures_->blocked_ns, 0U);
}

TEST_F(FaultStatsTest, ProcessorsBeyondTheFiguresCountAsOtherThreads) {
    std::vector<std::uint32_t> many;
    for (std::uint32_t i = 0; i < Postcopy::most_vcpus + 1; ++i) {
        many.push_back(1000 + i);
    }
    FaultStats stats{*figures_, many};
    EXPECT_EQ(figures_->vcpus, Postcopy::most_vcpus);
    for (const std::uint32_t thread : many) {
        stats.begin({.block = 0, .page = thread, .thread = thread}, start);
    }
    stats.ended(0, {1000, many.size()}, start + microseconds{7});
    // Of so many at once some find no place; those that did are counted once.
    EXPECT_LE(figures_->latency_faults, many.size());
    EXPECT_GT(figures_->latency_faults, many.size() * 9 / 10);
    EXPECT_LE(figures_->other_faults, 1U);
    if (figures_->latency_faults == many.size()) {
        EXPECT_EQ(figures_->other_faults, 1U);
        EXPECT_EQ(figures_->blocked_ns, 7000U);
    }
}

TEST_F(FaultStatsTest, MoreThanThereAreSlotsAreLeftOutAndNoneStays) {
    for (int round = 0; round < 3; ++round) {
        const std::uint64_t before = figures_->latency_faults;
        for (std::uint64_t page = 0; page < 3 * FaultStats::slots; ++page) {
            begin(page * 17, 0, 0);
        }
        ended({0, 100'000}, 10);
        EXPECT_LE(figures_->latency_faults - before, FaultStats::slots);
        EXPECT_GT(figures_->latency_faults - before, FaultStats::slots * 9 / 10);
        EXPECT_EQ(in_buckets(), figures_->latency_faults);
    }
}

// One reads faults, two end them, in the order in which a postcopy does it: nothing is left over, nothing is counted twice.
TEST_F(FaultStatsTest, ThreadsAtTheSameTime) {
    constexpr std::uint64_t rounds = 3000;
    std::array<std::atomic<std::uint64_t>, threads.size()> waits{}; // page + 1 that each processor waits for
    std::atomic<bool> stop{false};
    const auto end_some = [&](std::uint64_t odd) {
        while (!stop) {
            for (std::atomic<std::uint64_t>& wait : waits) {
                if (const std::uint64_t page = wait; page != 0 && page % 2 == odd) {
                    stats_->ended(0, {page - 1, 1}, FaultStats::Clock::now());
                    wait = 0;
                }
            }
            std::this_thread::yield();
        }
    };
    std::thread even{end_some, 0};
    std::thread odd{end_some, 1};
    const auto before = FaultStats::Clock::now();
    for (std::uint64_t i = 0; i < rounds; ++i) {
        const std::size_t vcpu = i % threads.size();
        while (waits.at(vcpu) != 0) {
            std::this_thread::yield();
        }
        stats_->begin({.block = 0, .page = i, .thread = threads.at(vcpu)}, FaultStats::Clock::now());
        waits.at(vcpu) = i + 1;
    }
    for (const auto& wait : waits) {
        while (wait != 0) {
            std::this_thread::yield();
        }
    }
    const std::uint64_t took = static_cast<std::uint64_t>(nanoseconds{FaultStats::Clock::now() - before}.count());
    stop = true;
    even.join();
    odd.join();
    EXPECT_EQ(figures_->latency_faults, rounds);
    EXPECT_EQ(in_buckets(), rounds);
    EXPECT_EQ(figures_->other_faults, 0U);
    std::uint64_t least = took;
    for (std::size_t vcpu = 0; vcpu < threads.size(); ++vcpu) {
        EXPECT_EQ(figures_->vcpu.at(vcpu).latency_ns, figures_->vcpu.at(vcpu).blocked_ns);
        EXPECT_LE(figures_->vcpu.at(vcpu).blocked_ns, took);
        least = std::min<std::uint64_t>(least, figures_->vcpu.at(vcpu).blocked_ns);
    }
    EXPECT_LE(figures_->blocked_ns, least);
    // Nobody waits: with all of them waiting once more, exactly that is added.
    const std::uint64_t blocked = figures_->blocked_ns;
    begin(1, 700, 0);
    begin(2, 300, 0);
    begin(3, 500, 0);
    ended({1, 3}, 10);
    EXPECT_EQ(figures_->blocked_ns, blocked + 10'000);
}

} // namespace
} // namespace pageferry::engine
