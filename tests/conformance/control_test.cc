// The control lane: order, sizes, limits, and that pages do not hold it up.
#include "ends.h"
#include "ram.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace pageferry::conformance {
namespace {

TEST(Control, MessagesArriveInOrderBothWays) {
    const Pair pair = connect_pair();
    ASSERT_TRUE(pair);
    constexpr int count = 500;
    const auto talk = [](const End& end, const char* mine, const char* theirs) {
        Background sending{"send", [&] {
                               for (int i = 0; i < count; ++i) {
                                   if (send(end, mine + std::to_string(i)) != PF_OK) {
                                       return false;
                                   }
                               }
                               return true;
                           }};
        for (int i = 0; i < count; ++i) {
            EXPECT_EQ(receive(end), theirs + std::to_string(i));
        }
        EXPECT_TRUE(sending.get());
    };
    Background other{"the other end", [&] {
                         talk(pair.destination, "D", "S");
                         return true;
                     }};
    talk(pair.source, "S", "D");
    other.get();
}

TEST(Control, EverySizeFromOneToTheLargest) {
    const Pair pair = connect_pair();
    ASSERT_TRUE(pair);
    for (const std::size_t size :
         {std::size_t{1}, std::size_t{2}, std::size_t{4095}, std::size_t{PF_CONTROL_MAX - 1}, std::size_t{PF_CONTROL_MAX}}) {
        std::string message(size, '\0');
        for (std::size_t i = 0; i < size; ++i) {
            message[i] = static_cast<char>(i * 31 + size);
        }
        EXPECT_EQ(send(pair.source, message), PF_OK);
        EXPECT_TRUE(receive(pair.destination) == message) << size << " bytes";
        EXPECT_EQ(send(pair.destination, message), PF_OK);
        EXPECT_TRUE(receive(pair.source) == message) << size << " bytes, back";
    }
}

TEST(Control, EmptyAndTooLongAreInvalidAndChangeNothing) {
    const Pair pair = connect_pair();
    ASSERT_TRUE(pair);
    const std::string long_one(PF_CONTROL_MAX + 1, 'x');
    pf_error error = no_error();
    EXPECT_EQ(transport().send(pair.source.get(), long_one.data(), long_one.size(), patience, &error), PF_INVALID);
    EXPECT_STRNE(error.reason, "");
    EXPECT_EQ(transport().send(pair.source.get(), long_one.data(), 0, patience, nullptr), PF_INVALID);
    std::string small(16, '\0');
    std::size_t length = 0;
    EXPECT_EQ(transport().receive(pair.destination.get(), small.data(), small.size(), &length, 0, nullptr), PF_INVALID)
        << "a buffer that could be too small";
    EXPECT_EQ(send(pair.source, "still here"), PF_OK);
    EXPECT_EQ(receive(pair.destination), "still here");
}

TEST(Control, NothingInTimeIsAgain) {
    const Pair pair = connect_pair();
    ASSERT_TRUE(pair);
    std::string buffer(PF_CONTROL_MAX, '\0');
    std::size_t length = 0;
    for (const std::int64_t timeout : {0, 50}) {
        EXPECT_EQ(transport().receive(pair.source.get(), buffer.data(), buffer.size(), &length, timeout, nullptr), PF_AGAIN);
    }
    Seen seen;
    EXPECT_EQ(poll_into(pair.source, seen, 0), PF_AGAIN);
}

TEST(Control, ManyThreadsMaySend) {
    const Pair pair = connect_pair();
    ASSERT_TRUE(pair);
    constexpr int each = 200;
    std::vector<std::thread> senders;
    for (char name = 'a'; name < 'e'; ++name) {
        senders.emplace_back([&pair, name] {
            for (int i = 0; i < each; ++i) {
                // Of different lengths, so that messages mixed up show.
                send(pair.source, name + std::to_string(i) + std::string(static_cast<std::size_t>(i * 13 % 3000), name));
            }
        });
    }
    int next[4] = {};
    bool whole = true;
    for (int i = 0; i < 4 * each && whole; ++i) {
        const std::string message = receive(pair.destination);
        whole = !message.empty() && message[0] >= 'a' && message[0] < 'e';
        if (whole) {
            const int number = next[message[0] - 'a']++;
            whole = message ==
                    message[0] + std::to_string(number) + std::string(static_cast<std::size_t>(number * 13 % 3000), message[0]);
        }
    }
    EXPECT_TRUE(whole);
    if (!whole) {
        transport().cancel(pair.source.get());
    }
    for (std::thread& sender : senders) {
        sender.join();
    }
}

// While the queue of pushes is kept full, messages go to and fro. One that had to wait for what was queued before it would see as
// many completions go by as there were pushes under way. A busy machine may delay many of the round trips; that all of them are
// delayed so far is no chance.
TEST(Control, IsNotStuckBehindPushes) {
    TwoRams rams; // before the pair: mapped until it is closed
    pf_options options = test_options();
    options.lanes = 1;        // where the same pages again come in order
    options.queue_depth = 16; // 128 MiB: much to overtake, and soon moved by any transport
    const Pair pair = connect_pair(options);
    ASSERT_TRUE(pair);
    rams.source.emplace_back(0, 64ULL << 20U);
    rams.destination.emplace_back(0, 64ULL << 20U);
    rams.source[0].fill(1);
    add_memory(pair, rams, PF_MEMORY_PUSH_SOURCE, PF_MEMORY_PUSH_TARGET);

    std::atomic<bool> stop = false;
    std::atomic<std::int64_t> accepted = 0;
    std::atomic<std::int64_t> completed = 0;
    std::atomic<bool> was_full = false;
    Background pusher{"push and poll", [&] {
                          const std::vector<pf_extent> batch(8, extent(rams.source[0], 0, 8ULL << 20U));
                          Seen seen;
                          while (!stop || completed < accepted) {
                              std::size_t taken = 0;
                              int status = stop
                                               ? PF_AGAIN
                                               : transport().push(pair.source.get(), batch.data(), batch.size(), &taken, nullptr);
                              accepted += status == PF_OK ? static_cast<std::int64_t>(taken) : 0;
                              if (status == PF_AGAIN) {
                                  was_full = true;
                                  status = poll_into(pair.source, seen, patience, &taken);
                                  completed += static_cast<std::int64_t>(taken);
                              }
                              if (status != PF_OK) {
                                  was_full = true;
                                  ADD_FAILURE() << "push or poll answered " << status;
                                  return false;
                              }
                          }
                          return true;
                      }};
    Background echo{"echo", [&] {
                        for (std::string message; message != "end";) {
                            message = receive(pair.destination);
                            if (message.empty() || send(pair.destination, message) != PF_OK) {
                                return false;
                            }
                        }
                        return true;
                    }};
    while (!was_full) {
        std::this_thread::yield();
    }
    bool overtook = false;
    for (int i = 0; i < 200 && !overtook; ++i) {
        const std::int64_t done_before = completed;
        const std::int64_t under_way = accepted - done_before;
        send(pair.source, "ping");
        if (receive(pair.source) != "ping") {
            ADD_FAILURE() << "no echo";
            break;
        }
        overtook = under_way >= 2 && completed - done_before < under_way / 2;
    }
    EXPECT_TRUE(overtook);
    send(pair.source, "end");
    receive(pair.source);
    stop = true;
    EXPECT_TRUE(echo.get());
    EXPECT_TRUE(pusher.get());
}

} // namespace
} // namespace pageferry::conformance
