// A network that goes dark under a connection: no reset, no end, just silence. In a network namespace of its own, whose loopback
// device is taken down.
#include "tcp_fallback/lane.h"
#include "tcp_fallback/sockets.h"

#include "pair.h"

#include <gtest/gtest.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <vector>

namespace pageferry::tcp::test {
namespace {

bool set_loopback(bool up) {
    const Fd socket{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) {
        return false;
    }
    request.ifr_flags = static_cast<short>(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
    return ::ioctl(socket.get(), SIOCSIFFLAGS, &request) == 0;
}

class DeadPeer : public testing::Test {
protected:
    static void SetUpTestSuite() {
        // This thread alone; it makes all the sockets, and the connection's threads inherit it.
        own_network = ::unshare(CLONE_NEWNET) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0;
    }
    void SetUp() override {
        if (!own_network || !set_loopback(true)) {
            GTEST_SKIP() << "this host does not let us have a network namespace";
        }
    }
    static pf_options impatient() {
        pf_options given = options();
        given.dead_peer_ms = 1000;
        return given;
    }
    static void expect_silence(const End& end) {
        std::vector<char> buffer(PF_CONTROL_MAX);
        std::size_t length = 0;
        Problem problem;
        EXPECT_EQ(api().receive(end.get, buffer.data(), buffer.size(), &length, generous_ms, &problem), PF_CLOSED)
            << problem.text();
        EXPECT_NE(std::string_view{problem.reason}.find("answered nothing for 1000 ms"), std::string_view::npos)
            << problem.text();
        EXPECT_NE(problem.native, 0);
        EXPECT_NE(problem.lane, PF_LANE_NONE);
    }
    static inline bool own_network = false;
};

TEST_F(DeadPeer, IsFoundWhileNothingIsSent) {
    const Pair pair{"tcp:127.0.0.1:0", impatient()};
    ASSERT_TRUE(set_loopback(false));
    expect_silence(pair.caller);
    expect_silence(pair.callee);
}

TEST_F(DeadPeer, IsFoundWithPagesUnderWay) {
    std::vector<std::byte> memory(8U << 20U);
    Pair pair{"tcp:127.0.0.1:0", impatient()};
    Problem problem;
    ASSERT_EQ(pair.caller.add(memory, PF_MEMORY_PUSH_SOURCE, problem), PF_OK);
    ASSERT_TRUE(set_loopback(false));
    ASSERT_EQ(pair.caller.push(0, memory.size()), PF_OK);
    EXPECT_EQ(pair.caller.fence(), PF_CLOSED);
    expect_silence(pair.caller);
}

// One thread of a lane takes the kernel's ETIMEDOUT; what the other one sees looks as if the peer had closed.
TEST_F(DeadPeer, IsToldFromAPeerThatClosedByEitherThreadOfALane) {
    const Listener listener{"tcp:127.0.0.1:0", impatient()};
    const RawCaller caller{listener.port()};
    ASSERT_TRUE(set_options(caller.socket.get(), impatient().dead_peer_ms));
    Lane lane;
    lane.socket = caller.socket.get();
    lane.dead_peer_ms = impatient().dead_peer_ms;
    EXPECT_NE(lane.fault(EPIPE, "send").error.reason.find("closed"), std::string::npos);

    ASSERT_TRUE(set_loopback(false));
    caller.say("nobody hears this");
    pollfd waiting{.fd = caller.socket.get(), .events = 0, .revents = 0}; // an error alone wakes it
    ASSERT_EQ(::poll(&waiting, 1, static_cast<int>(generous_ms)), 1);
    int error = 0;
    socklen_t length = sizeof error;
    ASSERT_EQ(::getsockopt(caller.socket.get(), SOL_SOCKET, SO_ERROR, &error, &length), 0);
    ASSERT_NE(error, 0);
    for (const int seen : {0, EPIPE}) {
        const Fault fault = lane.fault(seen, "receive");
        EXPECT_EQ(fault.error.native, ETIMEDOUT);
        EXPECT_NE(fault.error.reason.find("answered nothing for 1000 ms"), std::string::npos) << fault.error.to_string();
    }
}

TEST_F(DeadPeer, DoesNotHoldUpClose) {
    Pair pair{"tcp:127.0.0.1:0", options()};
    ASSERT_TRUE(set_loopback(false));
    EXPECT_EQ(pair.caller.send("nobody hears this"), PF_OK);
    pair.caller.close();
    EXPECT_EQ(pair.callee.receive(0), "again");
}

} // namespace
} // namespace pageferry::tcp::test
