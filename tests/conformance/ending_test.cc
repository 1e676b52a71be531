// How connections end: cancel from another thread, a peer that goes, close; and that nothing is left behind.
#include "ends.h"
#include "ram.h"

#include <atomic>
#include <filesystem>
#include <thread>
#include <vector>

namespace pageferry::conformance {
namespace {

// Calls again and again, with a long timeout, until it answers something else than PF_OK or PF_AGAIN. entered is set with the
// first call, so that a cancel comes before, in, or between calls: it must end them all.
template <class Call>
int until_it_ends(std::atomic<bool>& entered, Call call) {
    int status = PF_OK;
    while (status == PF_OK || status == PF_AGAIN) {
        entered = true;
        status = call();
    }
    return status;
}

template <class Call, class Cancel>
void expect_cancelled(const char* what, Call call, Cancel cancel) {
    std::atomic<bool> entered = false;
    Background calling{what, [&] { return until_it_ends(entered, call); }};
    while (!entered) {
        std::this_thread::yield();
    }
    // A moment in which the call comes to wait: not needed for the test to be right, only for it to be the harder one.
    std::this_thread::sleep_for(std::chrono::milliseconds{20});
    cancel();
    EXPECT_EQ(calling.get(), PF_CANCELLED) << what;
}

class Ending : public testing::Test {
protected:
    void SetUp() override {
        pair = connect_pair();
        ASSERT_TRUE(pair);
        add_memory(pair, rams, PF_MEMORY_PUSH_SOURCE, PF_MEMORY_PUSH_TARGET);
    }
    template <class Call>
    void cancelled_in(const char* what, Call call) {
        expect_cancelled(what, call, [&] { transport().cancel(pair.source.get()); });
        EXPECT_EQ(call(), PF_CANCELLED) << "every later call answers so too";
    }
    int push_one() const {
        const pf_extent one = extent(rams.source[0], 0, small_page);
        std::size_t accepted = 0;
        return transport().push(pair.source.get(), &one, 1, &accepted, nullptr);
    }
    int send_one(std::int64_t timeout = patience) const {
        return transport().send(pair.source.get(), buffer.data(), PF_CONTROL_MAX, timeout, nullptr);
    }
    int receive_one(std::int64_t timeout = patience) {
        std::size_t length = 0;
        return transport().receive(pair.source.get(), buffer.data(), buffer.size(), &length, timeout, nullptr);
    }
    int poll_one(std::int64_t timeout = patience) const {
        Seen seen;
        return poll_into(pair.source, seen, timeout);
    }
    int fence_one() const { return transport().fence(pair.source.get(), patience, nullptr); }

    TwoRams rams = usual_rams();
    Pair pair;
    std::vector<char> buffer = std::vector<char>(PF_CONTROL_MAX);
};

TEST_F(Ending, CancelEndsReceive) {
    cancelled_in("receive", [&] { return receive_one(); });
}
TEST_F(Ending, CancelEndsPoll) {
    cancelled_in("poll", [&] { return poll_one(); });
}
TEST_F(Ending, CancelEndsSend) { // nobody receives: the lane fills up
    cancelled_in("send", [&] { return send_one(); });
}
TEST_F(Ending, CancelEndsPushesAndFences) {
    cancelled_in("push, poll and fence", [&] { return push_round(pair.source, rams); });
}
TEST_F(Ending, CancelEndsRevoke) {
    cancelled_in("revoke_memory", [&] { return transport().revoke_memory(pair.source.get(), patience, nullptr); });
}

TEST_F(Ending, CancelEndsCallsOfSeveralThreadsAtOnce) {
    std::atomic<bool> entered = false;
    Background receiving{"receive", [&] { return until_it_ends(entered, [&] { return receive_one(); }); }};
    Background polling{"poll", [&] { return until_it_ends(entered, [&] { return poll_one(); }); }};
    Background fencing{"fence", [&] { return until_it_ends(entered, [&] { return fence_one(); }); }};
    while (!entered) {
        std::this_thread::yield();
    }
    transport().cancel(pair.source.get());
    transport().cancel(pair.source.get()); // twice is as good
    EXPECT_EQ(receiving.get(), PF_CANCELLED);
    EXPECT_EQ(polling.get(), PF_CANCELLED);
    EXPECT_EQ(fencing.get(), PF_CANCELLED);
    EXPECT_EQ(send_one(), PF_CANCELLED);
}

TEST(Cancel, EndsAccept) {
    const Listener listener = Listener::start();
    ASSERT_TRUE(listener);
    const auto accept = [&] {
        pf_connection* connection = nullptr;
        return transport().accept(listener.get(), patience, &connection, nullptr, nullptr);
    };
    expect_cancelled("accept", accept, [&] { transport().cancel_listener(listener.get()); });
    EXPECT_EQ(accept(), PF_CANCELLED) << "every later call answers so too";
}

TEST(Cancel, EndsConnect) {
    // Nobody calls accept(). A transport that connects all the same is cancelled in its next call.
    const Listener listener = Listener::start();
    ASSERT_TRUE(listener);
    const End end = End::open(listener.uri(), test_options());
    ASSERT_TRUE(end);
    std::atomic<bool> connected = false;
    std::vector<char> buffer(PF_CONTROL_MAX);
    std::size_t length = 0;
    const auto connect = [&] {
        if (connected) {
            return transport().receive(end.get(), buffer.data(), buffer.size(), &length, patience, nullptr);
        }
        const int status = transport().connect(end.get(), patience, nullptr, nullptr, nullptr);
        connected = status == PF_OK;
        return status;
    };
    expect_cancelled("connect", connect, [&] { transport().cancel(end.get()); });
}

TEST(Cancel, BeforeConnect) {
    const Listener listener = Listener::start();
    ASSERT_TRUE(listener);
    const End end = End::open(listener.uri(), test_options());
    ASSERT_TRUE(end);
    transport().cancel(end.get());
    pf_error error = no_error();
    EXPECT_EQ(transport().connect(end.get(), patience, nullptr, nullptr, &error), PF_CANCELLED);
    EXPECT_EQ(error.status, PF_CANCELLED);
}

TEST_F(Ending, CancelOfOneEndIsNotCancelOfTheOther) {
    transport().cancel(pair.source.get());
    pair.source.close();
    std::size_t length = 0;
    pf_error error = no_error();
    EXPECT_EQ(transport().receive(pair.destination.get(), buffer.data(), buffer.size(), &length, patience, &error), PF_CLOSED)
        << text_of(error);
}

TEST_F(Ending, APeerThatGoesIsClosedInEveryCall) {
    pair.destination.close();
    pf_error error = no_error();
    std::size_t length = 0;
    EXPECT_EQ(transport().receive(pair.source.get(), buffer.data(), buffer.size(), &length, patience, &error), PF_CLOSED)
        << text_of(error);
    EXPECT_STRNE(error.reason, "");
    EXPECT_STRNE(error.peer, "") << "an error names the peer";
    EXPECT_EQ(receive_one(), PF_CLOSED) << "the first error again";
    EXPECT_EQ(send_one(), PF_CLOSED);
    EXPECT_EQ(poll_one(), PF_CLOSED);
    EXPECT_EQ(fence_one(), PF_CLOSED);
    EXPECT_EQ(push_one(), PF_CLOSED);
}

TEST_F(Ending, WhatWasSentBeforeThePeerWentStillArrives) {
    for (int i = 0; i < 20; ++i) {
        send(pair.destination, std::to_string(i));
    }
    Background closing{"close", [&] {
                           pair.destination.close();
                           return true;
                       }};
    for (int i = 0; i < 20; ++i) {
        EXPECT_EQ(receive(pair.source), std::to_string(i));
    }
    EXPECT_EQ(receive_one(), PF_CLOSED);
    closing.get();
}

TEST_F(Ending, APeerThatGoesUnderPushesEndsThem) {
    std::atomic<bool> entered = false;
    Background pushing_on{"push and poll", [&] { return until_it_ends(entered, [&] { return push_round(pair.source, rams); }); }};
    while (!entered) {
        std::this_thread::yield();
    }
    pair.destination.close();
    EXPECT_EQ(pushing_on.get(), PF_CLOSED);
    EXPECT_EQ(fence_one(), PF_CLOSED);
}

TEST_F(Ending, AfterCloseNothingChangesThisSidesMemory) {
    std::atomic<bool> entered = false;
    rams.source[0].fill(1);
    Background pushing_on{"push and poll", [&] { return until_it_ends(entered, [&] { return push_round(pair.source, rams); }); }};
    while (!entered) {
        std::this_thread::yield();
    }
    pair.destination.close();
    for (Ram& ram : rams.destination) {
        ram.fill(0xee);
    }
    EXPECT_EQ(pushing_on.get(), PF_CLOSED);
    expect_untouched(rams.destination);
}

std::size_t entries(const char* folder) {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto& one : std::filesystem::directory_iterator{folder}) {
        ++count;
    }
    return count;
}

// One of everything, ended in one of the ways there are.
void whole_life(int way) {
    const TwoRams rams = usual_rams();
    Pair pair = connect_pair();
    ASSERT_TRUE(pair);
    add_memory(pair, rams, PF_MEMORY_PUSH_SOURCE, PF_MEMORY_PUSH_TARGET);
    Seen seen;
    ASSERT_TRUE(run_all(pair.source, pushing(pair.source), random_extents(rams.source, 20, 4096, 1), seen));
    send(pair.source, "x");
    receive(pair.destination);
    if (way == 1) {
        transport().cancel(pair.source.get());
    } else if (way == 2) {
        pair.destination.close();
    } else if (way == 3) { // one that never came to connect, and one that came to nobody
        const End unused = End::open(pair.listener.uri(), test_options());
        const std::string uri = pair.listener.uri();
        transport().cancel_listener(pair.listener.get());
        pair.listener.close();
        const End refused = End::open(uri, test_options());
        EXPECT_NE(transport().connect(refused.get(), patience, nullptr, nullptr, nullptr), PF_OK);
    }
}

TEST(Leaks, NoDescriptorAndNoThreadStays) {
    for (int way = 0; way < 4; ++way) {
        whole_life(way); // what a plugin keeps for the life of the process is there from here on
    }
    const std::size_t descriptors = entries("/proc/self/fd");
    const std::size_t threads = entries("/proc/self/task");
    for (int way = 0; way < 12; ++way) {
        whole_life(way % 4);
    }
    EXPECT_LE(entries("/proc/self/fd"), descriptors);
    // A thread that was joined may be seen for a moment longer.
    for (int i = 0; i < 1000 && entries("/proc/self/task") > threads; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds{10});
    }
    EXPECT_LE(entries("/proc/self/task"), threads);
}

} // namespace
} // namespace pageferry::conformance
