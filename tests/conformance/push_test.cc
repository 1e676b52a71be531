// Pushes: what lands where, completions, a full queue, rights, and revoking them.
#include "ends.h"
#include "ram.h"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

namespace pageferry::conformance {
namespace {

class Push : public testing::Test {
protected:
    void SetUp() override { start(test_options()); }
    void start(const pf_options& options) {
        paint(rams);
        pair = connect_pair(options);
        ASSERT_TRUE(pair);
        add_memory(pair, rams, PF_MEMORY_PUSH_SOURCE, PF_MEMORY_PUSH_TARGET);
    }
    // A new pair without memory; the old one first gives back its address, which may be a fixed one.
    void reconnect() {
        pair = {};
        pair = connect_pair();
        ASSERT_TRUE(pair);
    }
    // Pushes, fences, and looks at every byte of the destination.
    void push_and_compare(const std::vector<pf_extent>& extents) {
        Seen seen;
        ASSERT_TRUE(run_all(pair.source, pushing(pair.source), extents, seen));
        ASSERT_EQ(fence(pair.source), PF_OK);
        expect_moved(rams, extents);
        expect_each_once(extents, seen);
    }
    static void expect_each_once(const std::vector<pf_extent>& extents, const Seen& seen) {
        std::map<std::uint64_t, int> wanted;
        for (const pf_extent& one : extents) {
            ++wanted[one.cookie];
        }
        EXPECT_TRUE(seen.times == wanted) << "each cookie comes back once for each extent that carried it";
        EXPECT_TRUE(seen.bad.empty());
    }
    // Until whatever is wrong with these pushes has shown: push() refuses, or a completion is bad, or the connection ends.
    bool goes_wrong(std::vector<pf_extent> extents) {
        std::size_t accepted = 0;
        const int status = transport().push(pair.source.get(), extents.data(), extents.size(), &accepted, nullptr);
        if (status != PF_OK) {
            return status != PF_AGAIN;
        }
        Seen seen;
        std::size_t count = 0;
        for (std::size_t done = 0; done < accepted; done += count) {
            if (poll_into(pair.source, seen, patience, &count) != PF_OK) {
                return true;
            }
        }
        return !seen.bad.empty() || transport().fence(pair.source.get(), patience, nullptr) != PF_OK;
    }

    TwoRams rams = usual_rams();
    Pair pair;
};

TEST_F(Push, PagesLandAtTheirOffsets) {
    std::vector<pf_extent> extents;
    for (const Ram& ram : rams.source) { // the first page, the last, and every seventh between
        for (std::uint64_t offset = 0; offset < ram.length(); offset += 7 * small_page) {
            extents.push_back(extent(ram, offset, small_page, extents.size()));
        }
        extents.push_back(extent(ram, ram.length() - small_page, small_page, extents.size()));
    }
    push_and_compare(extents);
}

TEST_F(Push, WholeBlocks) {
    std::vector<pf_extent> extents;
    extents.reserve(rams.source.size());
    for (const Ram& ram : rams.source) {
        extents.push_back(extent(ram, 0, ram.length(), ~std::uint64_t{0} - extents.size()));
    }
    push_and_compare(extents);
}

TEST_F(Push, RandomExtents) {
    push_and_compare(random_extents(rams.source, 1500, 3ULL << 20U, 42));
}

TEST_F(Push, ManySmallExtents) {
    push_and_compare(random_extents(rams.source, 20'000, 64, 43));
}

TEST_F(Push, TheSameCookieMayBeUsedTwice) {
    push_and_compare({extent(rams.source[0], 0, 100, 7), extent(rams.source[0], 200, 100, 7)});
}

TEST_F(Push, APageSentAgainHasItsNewContent) {
    const std::vector<pf_extent> extents{extent(rams.source[0], 5 * small_page, small_page, 1)};
    push_and_compare(extents);
    rams.source[0].fill_random(99);
    push_and_compare(extents);
}

TEST_F(Push, FenceNeedsNoPoll) {
    const std::vector<pf_extent> extents{extent(rams.source[0], 0, 1ULL << 20U, 1), extent(rams.source[2], 0, 1ULL << 20U, 2)};
    std::size_t accepted = 0;
    ASSERT_EQ(transport().push(pair.source.get(), extents.data(), extents.size(), &accepted, nullptr), PF_OK);
    ASSERT_EQ(accepted, 2U);
    ASSERT_EQ(fence(pair.source), PF_OK);
    expect_moved(rams, extents);
    Seen seen;
    EXPECT_TRUE(run_all(pair.source, pushing(pair.source), {}, seen));
    while (seen.times.size() < 2 && poll_into(pair.source, seen, patience) == PF_OK) {
    }
    expect_each_once(extents, seen);
}

TEST_F(Push, FenceOfNothing) {
    EXPECT_EQ(fence(pair.source), PF_OK);
    EXPECT_EQ(fence(pair.destination), PF_OK);
}

TEST_F(Push, AMessageAfterAFenceFindsThePagesThere) {
    for (std::uint64_t round = 0; round < 50; ++round) {
        rams.source[1].fill(static_cast<std::uint8_t>(round));
        Seen seen;
        const std::vector<pf_extent> extents{extent(rams.source[1], 0, small_page)};
        ASSERT_TRUE(run_all(pair.source, pushing(pair.source), extents, seen));
        ASSERT_EQ(fence(pair.source), PF_OK);
        send(pair.source, "look");
        ASSERT_EQ(receive(pair.destination), "look");
        const auto page = rams.destination[1].guest();
        EXPECT_EQ(std::ranges::count(page, static_cast<std::byte>(round)), static_cast<std::ptrdiff_t>(page.size()));
    }
}

// A transport may hold on to the pages of an earlier push: told that they are others now, it has to look again.
TEST_F(Push, PagesThatWereReplacedArePushedAsTheyAreNow) {
    const std::vector<pf_extent> all{extent(rams.source[0], 0, rams.source[0].length(), 1),
                                     extent(rams.source[1], 0, rams.source[1].length(), 2),
                                     extent(rams.source[2], 0, rams.source[2].length(), 3)};
    push_and_compare(all);
    for (std::uint64_t round = 0; round < 4; ++round) {
        for (Ram& ram : rams.source) {
            ram.punch(0, ram.length());
            ram.fill_random(100 * round + ram.block()); // pages that were not there before
        }
        pf_error error = no_error();
        ASSERT_EQ(transport().memory_replaced(pair.source.get(), &error), PF_OK) << text_of(error);
        push_and_compare(all);
    }
    // What was not replaced, and holes, go as well as ever; and once more without any push in between.
    const std::uint64_t half = rams.source[0].length() / 2;
    for (int times = 0; times < 2; ++times) {
        rams.source[0].punch(small_page, half);
        ASSERT_EQ(transport().memory_replaced(pair.source.get(), nullptr), PF_OK);
    }
    push_and_compare(all);
}

// Named ahead and perhaps being registered at that moment.
TEST_F(Push, PagesReplacedWhileTheyArePreparedArePushedAsTheyAreNow) {
    for (std::uint64_t round = 0; round < 8; ++round) {
        reconnect();
        add_memory(pair, rams, PF_MEMORY_PUSH_SOURCE, PF_MEMORY_PUSH_TARGET);
        Ram& ram = rams.source[0];
        const std::vector<pf_extent> all{extent(ram, 0, ram.length(), 1)};
        ASSERT_EQ(transport().prepare(pair.source.get(), all.data(), all.size(), nullptr), PF_OK);
        ram.punch(0, ram.length());
        ram.fill_random(200 + round);
        ASSERT_EQ(transport().memory_replaced(pair.source.get(), nullptr), PF_OK);
        Seen seen;
        ASSERT_TRUE(run_all(pair.source, pushing(pair.source), all, seen));
        ASSERT_EQ(fence(pair.source), PF_OK);
        EXPECT_TRUE(std::ranges::equal(ram.guest(), rams.destination[0].guest())) << "round " << round;
    }
}

TEST_F(Push, AFullQueueIsAgainAndGoesOnAfterPoll) {
    pair = {};
    pf_options options = test_options();
    options.queue_depth = 4;
    options.lanes = 1; // where the same pages again come in order
    start(options);
    // Nobody polls: completions not taken yet count as under way, so a transport cannot go on taking for ever.
    const std::vector<pf_extent> batch(64, extent(rams.source[0], 0, 1ULL << 20U, 5));
    std::size_t taken = 0;
    int status = PF_OK;
    for (int i = 0; i < 1000 && status == PF_OK; ++i) {
        std::size_t accepted = 0;
        status = transport().push(pair.source.get(), batch.data(), batch.size(), &accepted, nullptr);
        taken += status == PF_OK ? accepted : 0;
    }
    ASSERT_EQ(status, PF_AGAIN) << taken << " pushes taken without a poll";
    EXPECT_GT(taken, 0U);
    Seen seen;
    while (static_cast<std::size_t>(seen.times[5]) < taken) {
        ASSERT_EQ(poll_into(pair.source, seen, patience), PF_OK);
    }
    EXPECT_EQ(static_cast<std::size_t>(seen.times[5]), taken);
    ASSERT_EQ(fence(pair.source), PF_OK);
    paint(rams);
    push_and_compare(random_extents(rams.source, 300, 256UL * 1024, 46));
}

TEST_F(Push, OneThreadPushesAndAnotherPolls) {
    const auto extents = random_extents(rams.source, 2000, 16UL * 1024, 47);
    std::atomic<bool> going = true;
    Background polling{"poll", [&] {
                           Seen seen;
                           while (seen.times.size() < extents.size() && going) {
                               const int status = poll_into(pair.source, seen, 100);
                               if (status != PF_OK && status != PF_AGAIN) {
                                   break;
                               }
                           }
                           return seen;
                       }};
    std::span<const pf_extent> left{extents};
    while (!left.empty()) {
        std::size_t accepted = 0;
        pf_error error = no_error();
        const int status =
            transport().push(pair.source.get(), left.data(), std::min<std::size_t>(left.size(), 16), &accepted, &error);
        if (status != PF_OK && status != PF_AGAIN) {
            going = false;
            ADD_FAILURE() << text_of(error);
            break;
        }
        left = left.subspan(status == PF_OK ? accepted : 0);
    }
    expect_each_once(extents, polling.get());
    ASSERT_EQ(fence(pair.source), PF_OK);
    expect_moved(rams, extents);
}

TEST_F(Push, OutsideABlockIsRefusedAndChangesNothing) {
    const Ram& ram = rams.source[0];
    const std::uint64_t end = ram.length();
    const std::vector<pf_extent> wrong{extent(ram, end, 1),
                                       extent(ram, end - 1, 2),
                                       extent(ram, 0, end + 1),
                                       extent(ram, 5, 0),
                                       extent(ram, ~std::uint64_t{0}, 2),
                                       extent(ram, 8, ~std::uint64_t{0} - 4),
                                       {.block = 1, .reserved = 0, .offset = 0, .length = 1, .cookie = 0},
                                       {.block = 0xffffffff, .reserved = 0, .offset = 0, .length = 1, .cookie = 0}};
    for (const pf_extent& one : wrong) {
        pf_error error = no_error();
        std::size_t accepted = 0;
        const int status = transport().push(pair.source.get(), &one, 1, &accepted, &error);
        EXPECT_TRUE(status == PF_INVALID || status == PF_NOT_FOUND || status == PF_PERMISSION)
            << "block " << one.block << " offset " << one.offset << " length " << one.length << ": " << text_of(error);
        EXPECT_STRNE(error.reason, "");
    }
    ASSERT_EQ(fence(pair.source), PF_OK) << "a call that was refused leaves the connection as it was";
    expect_untouched(rams.destination);
    push_and_compare({extent(ram, 0, small_page, 1)});
}

TEST_F(Push, FromABlockWithoutTheRightIsRefused) {
    pf_error error = no_error();
    std::size_t accepted = 0;
    const pf_extent back = extent(rams.destination[0], 0, small_page);
    const int status = transport().push(pair.destination.get(), &back, 1, &accepted, &error);
    EXPECT_TRUE(status == PF_INVALID || status == PF_PERMISSION) << text_of(error);
    push_and_compare({extent(rams.source[0], 0, small_page, 1)});
}

TEST_F(Push, IntoABlockWithoutTheRightChangesNothing) {
    reconnect();
    add_memory(pair, rams, PF_MEMORY_PUSH_SOURCE, PF_MEMORY_PULL_SOURCE);
    EXPECT_TRUE(goes_wrong({extent(rams.source[0], 0, small_page, 1)}));
    expect_untouched(rams.destination);
}

TEST_F(Push, ABlockThatTheDestinationDoesNotHaveChangesNothing) {
    reconnect();
    rams.destination.erase(rams.destination.begin() + 1);
    add_memory(pair, rams, PF_MEMORY_PUSH_SOURCE, PF_MEMORY_PUSH_TARGET);
    EXPECT_TRUE(goes_wrong({extent(rams.source[1], 0, small_page, 1)}));
    expect_untouched(rams.destination);
}

TEST_F(Push, AShorterBlockAtTheDestinationIsNotOverrun) {
    reconnect();
    rams = {};
    rams.source.emplace_back(0, 4 * small_page);
    rams.destination.emplace_back(0, 2 * small_page);
    paint(rams);
    add_memory(pair, rams, PF_MEMORY_PUSH_SOURCE, PF_MEMORY_PUSH_TARGET);
    EXPECT_TRUE(goes_wrong({extent(rams.source[0], 3 * small_page, small_page, 1)}));
    expect_untouched(rams.destination);
}

TEST_F(Push, BeforeMemoryWasAddedIsRefused) {
    reconnect();
    const pf_extent one = extent(rams.source[0], 0, small_page);
    std::size_t accepted = 0;
    const int status = transport().push(pair.source.get(), &one, 1, &accepted, nullptr);
    EXPECT_NE(status, PF_OK);
    EXPECT_NE(status, PF_AGAIN);
}

TEST_F(Push, AddingMemoryTwiceOrWronglyIsRefused) {
    const pf_memory_block block = rams.source[0].describe(PF_MEMORY_PUSH_SOURCE);
    EXPECT_NE(transport().add_memory(pair.source.get(), &block, 1, nullptr), PF_OK) << "once for each connection";
    const auto refused = [&](pf_memory_block wrong, const char* why) {
        reconnect();
        pf_error error = no_error();
        EXPECT_EQ(transport().add_memory(pair.source.get(), &wrong, 1, &error), PF_INVALID) << why << ": " << text_of(error);
    };
    pf_memory_block wrong = block;
    wrong.length += 1;
    refused(wrong, "length not whole pages");
    wrong = block;
    wrong.address = nullptr;
    refused(wrong, "no address");
    wrong = block;
    wrong.length = 0;
    refused(wrong, "no length");
}

TEST_F(Push, ControlGoesOnAfterMemoryIsRevoked) {
    const std::vector<pf_extent> extents{extent(rams.source[0], 0, 1ULL << 20U, 1)};
    push_and_compare(extents);
    pf_error error = no_error();
    EXPECT_EQ(transport().revoke_memory(pair.destination.get(), patience, &error), PF_OK) << text_of(error);
    EXPECT_EQ(transport().revoke_memory(pair.destination.get(), patience, &error), PF_OK)
        << "twice is as good: " << text_of(error);
    for (int i = 0; i < 20; ++i) {
        send(pair.destination, "revoked");
        ASSERT_EQ(receive(pair.source), "revoked");
        send(pair.source, "thanks");
        ASSERT_EQ(receive(pair.destination), "thanks");
    }
    expect_moved(rams, extents);
}

// A peer that pushes all the same may find that the connection ends, even before revoke_memory() has answered, which is then that
// error. What must not be is that the memory changes after PF_OK, or after close() where the connection had ended.
TEST_F(Push, RevokedMemoryNoLongerChanges) {
    rams.source[0].fill(1);
    std::atomic<bool> flowing = false;
    std::atomic<bool> stop = false;
    std::atomic<std::uint64_t> after = 0; // rounds of pushes since the memory was revoked
    Background pusher{"push", [&] {
                          while (!stop) {
                              push_round(pair.source, rams);
                              flowing = true;
                              ++after;
                          }
                          return true;
                      }};
    while (!flowing) {
        std::this_thread::yield();
    }
    pf_error error = no_error();
    if (const int status = transport().revoke_memory(pair.destination.get(), patience, &error); status != PF_OK) {
        std::vector<char> buffer(PF_CONTROL_MAX);
        std::size_t length = 0;
        EXPECT_EQ(transport().receive(pair.destination.get(), buffer.data(), buffer.size(), &length, patience, nullptr), status)
            << "only a connection that has ended may answer so: " << text_of(error);
        pair.destination.close();
    }
    for (Ram& ram : rams.destination) {
        ram.fill(0xee);
    }
    after = 0;
    while (after < 50) {
        std::this_thread::yield();
    }
    expect_untouched(rams.destination);
    stop = true;
    EXPECT_TRUE(pusher.get());
    transport().fence(pair.source.get(), patience, nullptr); // whatever is still under way
    expect_untouched(rams.destination);
}

TEST_F(Push, CountersAddUp) {
    const auto extents = random_extents(rams.source, 200, 100'000, 48);
    push_and_compare(extents);
    for (int i = 0; i < 10; ++i) {
        send(pair.source, std::string(1000, 'x'));
        receive(pair.destination);
    }
    const auto pushed = std::accumulate(extents.begin(), extents.end(), std::uint64_t{0},
                                        [](std::uint64_t sum, const pf_extent& one) { return sum + one.length; });
    pf_counters counters{};
    counters.size = sizeof counters;
    ASSERT_EQ(transport().counters(pair.source.get(), &counters), PF_OK);
    EXPECT_GE(counters.lanes, 1U);
    EXPECT_LE(counters.lanes, test_options().lanes);
    EXPECT_EQ(counters.bytes_pushed, pushed);
    EXPECT_EQ(counters.bytes_pulled, 0U);
    EXPECT_GE(counters.control_bytes, 10'000U);
    EXPECT_GE(counters.wire_bytes, counters.bytes_pushed);
}

} // namespace
} // namespace pageferry::conformance
