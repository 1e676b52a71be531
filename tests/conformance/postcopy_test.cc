// One connection for a whole migration, as postcopy uses it: pushes, a fence, the destination revokes, and from then on it pulls.
#include "ends.h"
#include "ram.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace pageferry::conformance {
namespace {

class Postcopy : public testing::Test {
protected:
    void SetUp() override {
        paint(rams);
        pair = connect_pair();
        ASSERT_TRUE(pair);
        add_memory(pair, rams, PF_MEMORY_PUSH_SOURCE | PF_MEMORY_PULL_SOURCE, PF_MEMORY_PUSH_TARGET | PF_MEMORY_PULL_TARGET);
        const pf_extent one = extent(rams.destination[1], 0, 1, 77);
        std::size_t accepted = 0;
        if (transport().pull(pair.destination.get(), PF_PULL_BULK, &one, 1, &accepted, nullptr) == PF_UNSUPPORTED) {
            GTEST_SKIP() << transport().name << " cannot pull";
        }
        Seen seen;
        ASSERT_EQ(poll_into(pair.destination, seen, patience), PF_OK);
        rams.destination[1].fill(0xee);
    }
    void push(const std::vector<pf_extent>& extents) {
        Seen seen;
        ASSERT_TRUE(run_all(pair.source, pushing(pair.source), extents, seen));
        ASSERT_EQ(fence(pair.source), PF_OK);
    }
    void revoke() {
        pf_error error = no_error();
        ASSERT_EQ(transport().revoke_memory(pair.destination.get(), patience, &error), PF_OK) << text_of(error);
    }
    void pull(std::uint32_t lane, const std::vector<pf_extent>& extents) {
        Seen seen;
        ASSERT_TRUE(run_all(pair.destination, pulling(pair.destination, lane), extents, seen));
        EXPECT_EQ(seen.times.size(), extents.size());
        EXPECT_TRUE(seen.bad.empty());
    }
    int start_pull(std::uint32_t lane, const pf_extent& one) {
        std::size_t accepted = 0;
        return transport().pull(pair.destination.get(), lane, &one, 1, &accepted, nullptr);
    }
    int revoke_of_destination() { return transport().revoke_memory(pair.destination.get(), patience, nullptr); }
    // Pages of all blocks, every so many from this one on.
    [[nodiscard]] std::vector<pf_extent> pages(std::uint64_t first, std::uint64_t every) const {
        std::vector<pf_extent> extents;
        for (const Ram& ram : rams.source) {
            for (std::uint64_t offset = first * small_page; offset < ram.length(); offset += every * small_page) {
                extents.push_back(extent(ram, offset, small_page, extents.size()));
            }
        }
        return extents;
    }

    TwoRams rams = usual_rams();
    Pair pair;
};

TEST_F(Postcopy, OtherPagesArePulledAfterTheRevoke) {
    push(pages(0, 3));
    revoke();
    pull(PF_PULL_URGENT, pages(1, 3));
    pull(PF_PULL_BULK, pages(2, 3));
    expect_moved(rams, pages(0, 1));
    send(pair.destination, "all is here");
    EXPECT_EQ(receive(pair.source), "all is here");
    pf_counters counters{};
    counters.size = sizeof counters;
    ASSERT_EQ(transport().counters(pair.destination.get(), &counters), PF_OK);
    EXPECT_EQ(counters.bytes_pulled, 1 + (small_page * (pages(1, 3).size() + pages(2, 3).size())));
}

// A page that was pushed before is stale by then.
TEST_F(Postcopy, APulledPageIsAsTheSourceHasItNow) {
    push(pages(0, 1));
    revoke();
    for (Ram& ram : rams.source) {
        ram.fill_random(123 + ram.block());
    }
    for (Ram& ram : rams.destination) {
        ram.fill(0xee);
    }
    pull(PF_PULL_URGENT, pages(0, 7));
    expect_moved(rams, pages(0, 7));
}

TEST_F(Postcopy, PreparedAfterTheRevoke) {
    push(pages(0, 2));
    revoke();
    const auto missing = pages(1, 2);
    pf_error error = no_error();
    ASSERT_EQ(transport().prepare(pair.destination.get(), missing.data(), missing.size(), &error), PF_OK) << text_of(error);
    pull(PF_PULL_BULK, missing);
    expect_moved(rams, pages(0, 1));
}

TEST_F(Postcopy, PreparedBeforeTheRevoke) {
    const auto missing = pages(1, 2);
    ASSERT_EQ(transport().prepare(pair.destination.get(), missing.data(), missing.size(), nullptr), PF_OK);
    push(pages(0, 2));
    revoke();
    pull(PF_PULL_URGENT, missing);
    expect_moved(rams, pages(0, 1));
}

// A hole that nobody asks for stays one: 2 MiB around a page are the most that may be filled.
TEST_F(Postcopy, NoMoreIsPopulatedThanWasAskedFor) {
    revoke();
    Ram& ram = rams.destination[0];
    ram.punch(0, ram.length());
    ASSERT_EQ(ram.allocated(), 0U);
    const std::vector<pf_extent> ahead{extent(ram, large_page, small_page, 1)};
    ASSERT_EQ(transport().prepare(pair.destination.get(), ahead.data(), ahead.size(), nullptr), PF_OK);
    pull(PF_PULL_URGENT, ahead);
    EXPECT_LE(ram.allocated(), large_page);
    pull(PF_PULL_BULK, {extent(ram, ram.length() - small_page, small_page, 2)});
    EXPECT_LE(ram.allocated(), 2 * large_page);
}

TEST_F(Postcopy, PullsUnderWayGoOnThroughTheRevoke) {
    const auto extents = random_extents(rams.destination, 400, 256UL * 1024, 61);
    std::atomic<bool> some = false;
    Background pulling_all{"pull", [&] {
                               Seen seen;
                               std::span<const pf_extent> left{extents};
                               while (seen.times.size() < extents.size()) {
                                   std::size_t accepted = 0;
                                   if (!left.empty() && transport().pull(pair.destination.get(), PF_PULL_BULK, left.data(),
                                                                         left.size(), &accepted, nullptr) == PF_OK) {
                                       left = left.subspan(accepted);
                                   }
                                   some = true;
                                   const int status = poll_into(pair.destination, seen, left.empty() ? patience : 0);
                                   if (status != PF_OK && status != PF_AGAIN) {
                                       break;
                                   }
                               }
                               return seen;
                           }};
    while (!some) {
        std::this_thread::yield();
    }
    EXPECT_EQ(revoke_of_destination(), PF_OK);
    const Seen seen = pulling_all.get();
    EXPECT_EQ(seen.times.size(), extents.size());
    EXPECT_TRUE(seen.bad.empty());
    expect_moved(rams, extents);
}

// The connection may end with it; the memory of the guest, which runs by now, stays as it is.
TEST_F(Postcopy, APushAfterTheRevokeChangesNothingThoughPullsWork) {
    push(pages(0, 4));
    revoke();
    pull(PF_PULL_URGENT, pages(1, 4));
    std::vector<std::vector<std::byte>> before;
    for (const Ram& ram : rams.destination) {
        before.emplace_back(ram.guest().begin(), ram.guest().end());
    }
    for (Ram& ram : rams.source) {
        ram.fill_random(9);
    }
    // Where it could push before, and where it was pulled from.
    for (const auto& extents : {pages(0, 4), pages(1, 4)}) {
        std::size_t accepted = 0;
        if (transport().push(pair.source.get(), extents.data(), extents.size(), &accepted, nullptr) != PF_OK) {
            break;
        }
        Seen seen;
        (void)poll_into(pair.source, seen, patience);
    }
    EXPECT_NE(transport().fence(pair.source.get(), patience, nullptr), PF_OK) << "nothing of it has landed";
    pair.source.close();
    pair.destination.close();
    for (std::size_t i = 0; i < before.size(); ++i) {
        EXPECT_TRUE(std::ranges::equal(rams.destination[i].guest(), before[i])) << "block " << i;
    }
}

// What the source's engine does in postcopy: it waits for a message.
TEST_F(Postcopy, TheSourceNeedsToDoNothing) {
    push(pages(0, 2));
    Background waiting{"receive", [&] { return receive(pair.source); }};
    revoke();
    pull(PF_PULL_BULK, pages(1, 4));
    pull(PF_PULL_URGENT, pages(3, 4));
    expect_moved(rams, pages(0, 1));
    send(pair.destination, "thanks");
    EXPECT_EQ(waiting.get(), "thanks");
}

// Not even the one who pulls has to come by again for the page to arrive; what had to be registered for it included.
TEST_F(Postcopy, APullArrivesThoughNobodyPolls) {
    revoke();
    for (const std::uint32_t lane : {PF_PULL_URGENT, PF_PULL_BULK}) {
        for (std::size_t i : {std::size_t{0}, std::size_t{2}}) {
            const std::uint64_t offset = rams.destination[i].length() - ((2 + lane) * small_page);
            ASSERT_EQ(start_pull(lane, extent(rams.destination[i], offset, small_page)), PF_OK);
            const auto is = rams.destination[i].guest().subspan(offset, small_page);
            const auto was = rams.source[i].guest().subspan(offset, small_page);
            const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds{patience};
            while (!std::ranges::equal(is, was)) {
                ASSERT_LT(std::chrono::steady_clock::now(), until) << "lane " << lane << ", block " << i;
                std::this_thread::yield();
            }
        }
    }
}

// poll() is asleep by the time that another thread pulls. It is not the one who pulls, and is woken for either lane.
TEST_F(Postcopy, PollIsWokenByThePullsOfOthers) {
    revoke();
    for (std::uint64_t i = 0; i < 40; ++i) {
        Seen seen;
        Background polling{"poll", [&] { return poll_into(pair.destination, seen, patience); }};
        std::this_thread::yield();
        const std::uint32_t lane = i % 2 == 0 ? PF_PULL_URGENT : PF_PULL_BULK;
        ASSERT_EQ(start_pull(lane, extent(rams.destination[i % 4 < 2 ? 0 : 2], i * 16 * small_page, small_page, i)), PF_OK);
        ASSERT_EQ(polling.get(), PF_OK);
        EXPECT_EQ(seen.times[i], 1);
    }
}

// The engine's threads: one for faults, each of which it waits for; one that keeps bulk pulls under way and polls for both; and
// one that talks. Faults are of their own region, registered by the first of them.
TEST_F(Postcopy, FaultsBackgroundAndControlAtOnce) {
    push(pages(0, 64));
    revoke();
    const Ram& bulk = rams.destination[0];
    const Ram& faults = rams.destination[2];
    constexpr std::uint64_t piece = 256UL * 1024;
    constexpr std::uint64_t urgent_mark = 1ULL << 40U;
    constexpr std::size_t window = 8; // bulk pulls under way
    std::mutex mutex;
    std::condition_variable arrived;
    std::set<std::uint64_t> here; // faults
    bool failed = false;
    std::atomic<bool> stop = false;
    Background fetching{"faults", [&] {
                            for (std::uint64_t offset = small_page; offset < faults.length(); offset += 32 * small_page) {
                                const std::uint64_t cookie = urgent_mark | offset;
                                const int status = start_pull(PF_PULL_URGENT, extent(faults, offset, small_page, cookie));
                                std::unique_lock lock{mutex};
                                failed = failed || status != PF_OK;
                                const auto known = [&] { return failed || here.contains(cookie); };
                                if (!arrived.wait_for(lock, std::chrono::milliseconds{patience}, known) || failed) {
                                    return false;
                                }
                            }
                            return true;
                        }};
    Background talking{"control", [&] {
                           while (!stop) {
                               send(pair.destination, "progress");
                               if (receive(pair.source) != "progress") {
                                   return false;
                               }
                           }
                           return true;
                       }};
    std::vector<pf_extent> pulled;
    std::uint64_t rounds = 0;
    std::size_t under_way = 0;
    const std::size_t expected = (faults.length() - small_page + (32 * small_page) - 1) / (32 * small_page);
    for (std::uint64_t offset = 0; here.size() < expected || rounds == 0 || under_way > 0;) {
        const bool more = here.size() < expected || rounds == 0;
        while (more && under_way < window && start_pull(PF_PULL_BULK, extent(bulk, offset, piece, offset)) == PF_OK) {
            ++under_way;
            offset += piece;
            rounds += offset == bulk.length() ? 1 : 0;
            offset %= bulk.length();
        }
        Seen seen;
        const int status = poll_into(pair.destination, seen, patience);
        const std::scoped_lock lock{mutex};
        for (const auto& [cookie, times] : seen.times) {
            if ((cookie & urgent_mark) != 0) {
                here.insert(cookie);
            } else {
                under_way -= static_cast<std::size_t>(times);
            }
        }
        failed = failed || status != PF_OK || !seen.bad.empty();
        arrived.notify_all();
        if (failed) {
            break;
        }
    }
    stop = true;
    EXPECT_FALSE(failed);
    EXPECT_TRUE(fetching.get());
    EXPECT_TRUE(talking.get());
    EXPECT_EQ(here.size(), expected);
    pulled = pages(0, 64);
    pulled.push_back(extent(bulk, 0, bulk.length()));
    for (const std::uint64_t cookie : here) {
        pulled.push_back(extent(faults, cookie & ~urgent_mark, small_page));
    }
    expect_moved(rams, pulled);
}

} // namespace
} // namespace pageferry::conformance
