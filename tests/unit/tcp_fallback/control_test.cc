#include "pair.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

namespace pageferry::tcp::test {
namespace {

class Control : public testing::TestWithParam<const char*> {};

std::string uri_for(const char* kind) {
    return std::string_view{kind} == "unix" ? "unix:" + testing::TempDir() + "pf-control-" + std::to_string(::getpid())
                                            : "tcp:127.0.0.1:0";
}

TEST_P(Control, MessagesArriveWholeAndInOrder) {
    Pair pair{uri_for(GetParam())};
    EXPECT_EQ(pair.callee.receive(0), "again");
    EXPECT_EQ(pair.caller.send("one"), PF_OK);
    EXPECT_EQ(pair.caller.send(std::string(PF_CONTROL_MAX, 'x')), PF_OK);
    EXPECT_EQ(pair.caller.send("three"), PF_OK);
    EXPECT_EQ(pair.callee.receive(), "one");
    EXPECT_EQ(pair.callee.receive(), std::string(PF_CONTROL_MAX, 'x'));
    EXPECT_EQ(pair.callee.receive(), "three");
    EXPECT_EQ(pair.callee.send("back"), PF_OK);
    EXPECT_EQ(pair.caller.receive(), "back");
}

TEST_P(Control, MessagesOfManyThreadsDoNotMix) {
    Pair pair{uri_for(GetParam())};
    std::vector<std::thread> senders;
    for (char letter = 'a'; letter < 'e'; ++letter) {
        senders.emplace_back([&pair, letter] {
            for (std::size_t i = 1; i <= 200; ++i) {
                EXPECT_EQ(pair.caller.send(std::string(i * 100, letter)), PF_OK);
            }
        });
    }
    std::size_t next[4] = {1, 1, 1, 1};
    for (int i = 0; i < 800; ++i) {
        const std::string message = pair.callee.receive();
        const auto sender = static_cast<std::size_t>(message.front() - 'a');
        ASSERT_LT(sender, 4U);
        EXPECT_EQ(message, std::string(next[sender]++ * 100, message.front()));
    }
    for (std::thread& sender : senders) {
        sender.join();
    }
}

TEST_P(Control, APeerThatDoesNotListenMakesSendTimeOutAndNothingIsLost) {
    Pair pair{uri_for(GetParam())};
    const std::string big(PF_CONTROL_MAX, 'b');
    int sent = 0;
    int status = PF_OK;
    while ((status = pair.caller.send(big, 0)) == PF_OK) {
        ASSERT_LT(++sent, 100'000) << "somebody keeps all of it";
    }
    EXPECT_EQ(status, PF_TIMED_OUT);
    for (int i = 0; i < sent; ++i) {
        ASSERT_EQ(pair.callee.receive(), big);
    }
    EXPECT_EQ(pair.callee.receive(0), "again") << "what timed out was not sent";
    EXPECT_EQ(pair.caller.send("after"), PF_OK);
    EXPECT_EQ(pair.callee.receive(), "after");
}

TEST_P(Control, TheLastWordsBeforeCloseStillArrive) {
    Pair pair{uri_for(GetParam())};
    for (int i = 0; i < 20; ++i) {
        EXPECT_EQ(pair.caller.send("word " + std::to_string(i)), PF_OK);
    }
    pair.caller.close();
    // A data lane has met the end of the connection by now, or will while we read.
    EXPECT_EQ(pair.callee.fence(), PF_CLOSED);
    for (int i = 0; i < 20; ++i) {
        EXPECT_EQ(pair.callee.receive(), "word " + std::to_string(i));
    }
    EXPECT_EQ(pair.callee.receive(), "status " + std::to_string(PF_CLOSED));
    EXPECT_EQ(pair.callee.receive(0), "status " + std::to_string(PF_CLOSED));
}

TEST_P(Control, BadArgumentsChangeNothing) {
    Pair pair{uri_for(GetParam())};
    EXPECT_EQ(pair.caller.send(""), PF_INVALID);
    EXPECT_EQ(pair.caller.send(std::string(PF_CONTROL_MAX + 1, 'x')), PF_INVALID);
    char small[16];
    std::size_t length = 0;
    EXPECT_EQ(api().receive(pair.callee.get, small, sizeof small, &length, 0, nullptr), PF_INVALID);
    EXPECT_EQ(pair.caller.send("still here"), PF_OK);
    EXPECT_EQ(pair.callee.receive(), "still here");
}

INSTANTIATE_TEST_SUITE_P(Sockets, Control, testing::Values("tcp", "unix"),
                         [](const auto& test) { return std::string{test.param}; });

} // namespace
} // namespace pageferry::tcp::test
