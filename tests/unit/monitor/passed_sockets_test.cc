// Where a socket leads that a client has passed; real sockets.
#include "monitor/passed_sockets.h"

#include "bench.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <filesystem>
#include <string>
#include <vector>

namespace pageferry::monitor {
namespace {

using Fds = std::vector<Fd>;

template <class Address>
bool bind_and_listen(const Fd& socket, Address& address, socklen_t& length) {
    auto* const general = reinterpret_cast<sockaddr*>(&address); // NOLINT(*-reinterpret-cast)
    return ::bind(socket.get(), general, length) == 0 && ::listen(socket.get(), 4) == 0 &&
           ::getsockname(socket.get(), general, &length) == 0;
}

// A listening socket, and one connected to it; to_listener is as the client has passed it.
struct Connected {
    Fd listener, to_listener, accepted;

    template <class Address>
    Connected(int family, Address& address, socklen_t length)
        : listener{::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)},
          to_listener{::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)} {
        EXPECT_TRUE(bind_and_listen(listener, address, length));
        EXPECT_EQ(::connect(to_listener.get(), reinterpret_cast<sockaddr*>(&address), length), 0); // NOLINT(*-reinterpret-cast)
        accepted = Fd{::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)};
    }
    Fds pass() { return one(to_listener.duplicate()); }
    static Fds one(Fd fd) {
        Fds list;
        list.push_back(std::move(fd));
        return list;
    }
    [[nodiscard]] bool ended() const {
        char byte = 0;
        return ::recv(accepted.get(), &byte, 1, MSG_DONTWAIT) == 0;
    }
};

struct PassedSocketsOf : testing::Test {
    std::vector<std::string> closed_at_qemu;
    PassedSockets sockets{[this](const std::string& name) { closed_at_qemu.push_back(name); }};
};

TEST_F(PassedSocketsOf, Tcp) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    Connected pair{AF_INET, address, sizeof address};
    sockets.passed("migrate", pair.pass());
    EXPECT_EQ(sockets.peer("migrate"), "tcp:127.0.0.1:" + std::to_string(ntohs(address.sin_port)));
    EXPECT_EQ(sockets.peer("other"), std::nullopt);
    EXPECT_FALSE(pair.ended());
    sockets.shut_down("migrate");
    EXPECT_TRUE(pair.ended()) << "whoever else has it";
    EXPECT_EQ(closed_at_qemu, std::vector<std::string>{"migrate"});
    EXPECT_EQ(sockets.peer("migrate"), std::nullopt);
    sockets.shut_down("migrate");
    EXPECT_EQ(closed_at_qemu.size(), 1U);
}

TEST_F(PassedSocketsOf, Ipv6AndMappedIpv4) {
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_addr = in6addr_loopback;
    Connected pair{AF_INET6, address, sizeof address};
    sockets.passed("a", pair.pass());
    EXPECT_EQ(sockets.peer("a"), "tcp:[::1]:" + std::to_string(ntohs(address.sin6_port)));

    sockaddr_in6 mapped{};
    mapped.sin6_family = AF_INET6;
    ASSERT_EQ(::inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.sin6_addr), 1);
    Connected of_ipv4{AF_INET6, mapped, sizeof mapped};
    sockets.passed("b", of_ipv4.pass());
    EXPECT_EQ(sockets.peer("b"), "tcp:127.0.0.1:" + std::to_string(ntohs(mapped.sin6_port)));
}

TEST_F(PassedSocketsOf, UnixWithAPath) {
    const std::string path = testing::TempDir() + "passed-" + std::to_string(::getpid());
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(static_cast<char*>(address.sun_path), sizeof address.sun_path - 1);
    Connected pair{AF_UNIX, address, sizeof address};
    sockets.passed("migrate", pair.pass());
    EXPECT_EQ(sockets.peer("migrate"), "unix:" + path);
    std::filesystem::remove(path);
}

// What `virsh save` passes, and what a tunnelled migration does: QEMU's own to use.
TEST_F(PassedSocketsOf, NothingElseIsKept) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const Fd reading{ends[0]};
    sockets.passed("pipe", Connected::one(Fd{ends[1]}));
    sockets.passed("file", Connected::one(Fd{::open("/proc/self/exe", O_RDONLY | O_CLOEXEC)}));
    auto [one, other] = test::socket_pair();
    sockets.passed("pair", Connected::one(std::move(one)));
    sockets.passed("alone", Connected::one(Fd{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)}));
    sockets.passed("none", {});
    for (const char* name : {"pipe", "file", "pair", "alone", "none"}) {
        EXPECT_EQ(sockets.peer(name), std::nullopt) << name;
        sockets.shut_down(name);
    }
    EXPECT_TRUE(closed_at_qemu.empty());
}

TEST_F(PassedSocketsOf, ANameIsGivenAgainAndTakenBack) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    Connected pair{AF_INET, address, sizeof address};
    sockets.passed("migrate", pair.pass());
    sockets.passed("migrate", Connected::one(Fd{::open("/dev/null", O_RDWR | O_CLOEXEC)}));
    EXPECT_EQ(sockets.peer("migrate"), std::nullopt);
    sockets.passed("migrate", pair.pass());
    sockets.closed("migrate");
    EXPECT_EQ(sockets.peer("migrate"), std::nullopt);
    EXPECT_FALSE(pair.ended()) << "it is QEMU's to close";
}

} // namespace
} // namespace pageferry::monitor
