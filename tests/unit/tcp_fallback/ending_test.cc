// How calls end: cancelled, with a peer that is gone, by a peer that breaks the rules.
#include "pair.h"

#include "tcp_fallback/handshake.h"
#include "tcp_fallback/sockets.h"
#include "tcp_fallback/wire.h"
#include "transport/plugin/ending.h"
#include "transport/plugin/events.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <functional>
#include <thread>

namespace pageferry::tcp::test {
namespace {

TEST(Ending, TheFirstErrorStaysAndCancelGoesOverIt) {
    Ending ending{make_event().value()};
    EXPECT_FALSE(ending.over());
    EXPECT_TRUE(ending.record(Fault{.error = make_error(ErrorCode::closed, "receive", "bulk lane 0", "first"), .lane = 1}));
    EXPECT_FALSE(ending.record(Fault{.error = make_error(ErrorCode::io, "send", "bulk lane 1", "second"), .lane = 2}));
    EXPECT_EQ(ending.why().error.reason, "first");
    EXPECT_EQ(ending.why().lane, 1U);
    ending.cancel();
    EXPECT_EQ(ending.why().error.code, ErrorCode::cancelled);
    EXPECT_NE(ending.why().error.reason.find("first"), std::string::npos);
}

class Cancel : public testing::Test {
protected:
    // The call, under way or about to be, answers PF_CANCELLED; and so does everything after it.
    void expect_cancelled(const std::function<int()>& call) {
        int status = PF_OK;
        std::thread caller{[&] { status = call(); }};
        api().cancel(pair.caller.get);
        caller.join();
        EXPECT_EQ(status, PF_CANCELLED);
        EXPECT_EQ(pair.caller.send("late"), PF_CANCELLED);
        EXPECT_EQ(pair.caller.fence(), PF_CANCELLED);
        EXPECT_EQ(pair.caller.receive(), "status " + std::to_string(PF_CANCELLED));
    }
    std::vector<std::byte> memory = std::vector<std::byte>(16U << 20U); // outlives the connection
    Pair pair;
};

TEST_F(Cancel, Receive) {
    expect_cancelled([&] {
        std::vector<char> buffer(PF_CONTROL_MAX);
        std::size_t length = 0;
        return api().receive(pair.caller.get, buffer.data(), buffer.size(), &length, generous_ms, nullptr);
    });
}

TEST_F(Cancel, Poll) {
    expect_cancelled([&] {
        pf_completion completion{};
        return pair.caller.poll(completion);
    });
}

TEST_F(Cancel, FenceBehindPagesThatThePeerDoesNotTake) {
    Problem problem;
    ASSERT_EQ(pair.caller.add(memory, PF_MEMORY_PUSH_SOURCE, problem), PF_OK);
    for (std::uint64_t i = 0; i < 8; ++i) {
        ASSERT_EQ(pair.caller.push(0, memory.size(), i), PF_OK);
    }
    expect_cancelled([&] { return pair.caller.fence(); });
}

TEST_F(Cancel, SendToAPeerThatDoesNotListen) {
    const std::string big(PF_CONTROL_MAX, 'x');
    while (pair.caller.send(big, 0) == PF_OK) {
    }
    expect_cancelled([&] {
        int status = PF_OK;
        while ((status = pair.caller.send(big)) == PF_OK) {
        }
        return status;
    });
}

TEST(CancelConnect, BeforeAndDuring) {
    const pf_options given = options();
    // A listener that never accepts: the kernel connects, nobody greets.
    const Listener listener;
    End early;
    ASSERT_EQ(api().open(listener.uri().c_str(), &given, &early.get, nullptr), PF_OK);
    api().cancel(early.get);
    EXPECT_EQ(api().connect(early.get, generous_ms, nullptr, nullptr, nullptr), PF_CANCELLED);

    End during;
    ASSERT_EQ(api().open(listener.uri().c_str(), &given, &during.get, nullptr), PF_OK);
    Problem problem;
    const auto cancel_in_handshake = [](void* context, pf_phase phase, const char*) {
        if (phase == PF_PHASE_HANDSHAKE) {
            api().cancel(static_cast<End*>(context)->get);
        }
    };
    EXPECT_EQ(api().connect(during.get, generous_ms, cancel_in_handshake, &during, &problem), PF_CANCELLED);
    EXPECT_EQ(problem.phase, PF_PHASE_HANDSHAKE);
}

TEST(CancelConnect, InNameResolution) {
    const pf_options given = options();
    End caller;
    ASSERT_EQ(api().open("tcp:no-such-host.invalid:4444", &given, &caller.get, nullptr), PF_OK);
    const auto cancel_at_once = [](void* context, pf_phase, const char*) { api().cancel(static_cast<End*>(context)->get); };
    Problem problem;
    EXPECT_EQ(api().connect(caller.get, generous_ms, cancel_at_once, &caller, &problem), PF_CANCELLED);
    EXPECT_EQ(problem.phase, PF_PHASE_RESOLVING_ADDRESS);
}

TEST(CancelListener, AcceptAnswersAtOnce) {
    const Listener listener;
    int status = PF_OK;
    std::thread accepting{[&] {
        pf_connection* connection = nullptr;
        status = api().accept(listener.get, generous_ms, &connection, nullptr, nullptr);
    }};
    api().cancel_listener(listener.get);
    accepting.join();
    EXPECT_EQ(status, PF_CANCELLED);
    pf_connection* connection = nullptr;
    EXPECT_EQ(api().accept(listener.get, 0, &connection, nullptr, nullptr), PF_CANCELLED);
}

TEST(PeerGone, EveryCallAnswersTheSameFirstError) {
    Pair pair;
    pair.callee.close();
    EXPECT_EQ(pair.caller.fence(), PF_CLOSED);
    pf_completion completion{};
    Problem first;
    Problem second;
    std::size_t count = 0;
    EXPECT_EQ(api().poll(pair.caller.get, &completion, 1, &count, generous_ms, &first), PF_CLOSED);
    EXPECT_EQ(api().send(pair.caller.get, "x", 1, generous_ms, &second), PF_CLOSED);
    EXPECT_EQ(first.text(), second.text());
    EXPECT_NE(std::string_view{first.peer}.find("127.0.0.1"), std::string_view::npos) << first.text();
}

TEST(PeerGone, NobodyListens) {
    std::string uri;
    {
        const Listener listener;
        uri = listener.uri();
    }
    const pf_options given = options();
    End caller;
    ASSERT_EQ(api().open(uri.c_str(), &given, &caller.get, nullptr), PF_OK);
    Problem problem;
    EXPECT_EQ(api().connect(caller.get, generous_ms, nullptr, nullptr, &problem), PF_REFUSED);
    EXPECT_EQ(problem.phase, PF_PHASE_CONNECTING);
    EXPECT_EQ(problem.native, ECONNREFUSED);
    EXPECT_EQ(api().connect(caller.get, generous_ms, nullptr, nullptr, nullptr), PF_REFUSED) << "the first error again";
}

// A peer that goes through the handshake by the book and then sends bytes of its own.
class RuleBreaker : public testing::Test {
protected:
    RuleBreaker() {
        Id id{};
        id.fill(1);
        std::size_t number = 0;
        for (const LaneKind kind : {LaneKind::control, LaneKind::bulk, LaneKind::urgent}) {
            const Preamble preamble{
                .version = 1, .kind = kind, .index = 0, .lanes = 1, .connection = id, .session = {}, .epoch = 0};
            std::array<std::byte, preamble_bytes> bytes{};
            encode_preamble(preamble, bytes);
            lanes[number++].say(bytes);
        }
        Problem problem;
        EXPECT_EQ(api().accept(listener.get, generous_ms, &callee.get, nullptr, &problem), PF_OK) << problem.text();
        EXPECT_EQ(callee.add(memory, PF_MEMORY_PUSH_TARGET | PF_MEMORY_PULL_SOURCE, problem), PF_OK);
    }
    // Says it on that lane; the connection ends with this status, and names the lane.
    void expect_end(std::uint32_t lane, std::span<const std::byte> bytes, int status) {
        lanes[lane].say(bytes);
        std::vector<char> buffer(PF_CONTROL_MAX);
        std::size_t length = 0;
        Problem problem;
        EXPECT_EQ(api().receive(callee.get, buffer.data(), buffer.size(), &length, generous_ms, &problem), status)
            << problem.text();
        EXPECT_EQ(problem.lane, lane);
        EXPECT_EQ(memory, std::vector<std::byte>(16384));
    }
    static std::array<std::byte, frame_bytes> frame(FrameType type, std::uint32_t count, std::uint64_t number, Piece piece) {
        std::array<std::byte, frame_bytes> bytes{};
        encode_frame(Frame{.type = type, .count = count, .number = number, .first = piece}, bytes);
        return bytes;
    }

    Listener listener;
    std::array<RawCaller, 3> lanes{RawCaller{listener.port()}, RawCaller{listener.port()}, RawCaller{listener.port()}};
    std::vector<std::byte> memory = std::vector<std::byte>(16384); // outlives the connection
    End callee;
};

TEST_F(RuleBreaker, Garbage) {
    expect_end(1, std::as_bytes(std::span{"this is not a frame at all, not at all"}), PF_PROTOCOL);
}
TEST_F(RuleBreaker, GarbageOnControl) {
    expect_end(0, std::as_bytes(std::span{"this is no message"}), PF_PROTOCOL);
}
TEST_F(RuleBreaker, ABlockThatIsNotThere) {
    expect_end(1, frame(FrameType::data, 1, 0, {.offset = 0, .block = 77, .length = 4096}), PF_INVALID);
}
TEST_F(RuleBreaker, BeyondTheBlock) {
    expect_end(1, frame(FrameType::data, 1, 0, {.offset = 12288, .block = 0, .length = 8192}), PF_INVALID);
}
TEST_F(RuleBreaker, PagesOnTheUrgentLane) {
    expect_end(2, frame(FrameType::data, 1, 0, {.offset = 0, .block = 0, .length = 4096}), PF_PROTOCOL);
}
TEST_F(RuleBreaker, AnswersNobodyAsked) {
    expect_end(1, frame(FrameType::pulled, 1, 0, {.offset = 0, .block = 0, .length = 4096}), PF_PROTOCOL);
}
TEST_F(RuleBreaker, AFenceAnswerNobodyAsked) {
    expect_end(1, frame(FrameType::fenced, 0, 9, {}), PF_PROTOCOL);
}
TEST_F(RuleBreaker, RequestsOutOfOrder) {
    expect_end(1, frame(FrameType::pull, 1, 5, {.offset = 0, .block = 0, .length = 4096}), PF_PROTOCOL);
}
TEST_F(RuleBreaker, GoneInTheMiddleOfAPage) {
    const auto bytes = frame(FrameType::data, 1, 0, {.offset = 0, .block = 0, .length = 4096});
    lanes[1].say(bytes);
    ::shutdown(lanes[1].socket.get(), SHUT_WR);
    EXPECT_EQ(callee.fence(), PF_CLOSED);
}

} // namespace
} // namespace pageferry::tcp::test
