#include "tests/unit/engine/relay.h"

#include "transport/uri.h"

#include <gtest/gtest.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <vector>

namespace pageferry::engine::testing {

namespace {

sockaddr_in loopback(unsigned port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    return address;
}

unsigned port_of(const std::string& uri) {
    const auto parsed = transport::parse_uri(uri);
    EXPECT_TRUE(parsed) << uri;
    return parsed ? parsed->port : 0;
}

void pump(int from, int to) {
    std::vector<char> buffer(std::size_t{256} << 10U);
    for (;;) {
        const ssize_t count = ::recv(from, buffer.data(), buffer.size(), 0);
        if (count <= 0) {
            break;
        }
        for (ssize_t sent = 0; sent < count;) {
            const ssize_t more = ::send(to, buffer.data() + sent, static_cast<std::size_t>(count - sent), MSG_NOSIGNAL);
            if (more <= 0) {
                ::shutdown(from, SHUT_RD);
                break;
            }
            sent += more;
        }
    }
    ::shutdown(to, SHUT_WR);
}

} // namespace

std::pair<Fd, std::string> listen_on_loopback() {
    Fd listener{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    auto address = loopback(0);
    socklen_t size = sizeof address;
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    const bool good = ::bind(listener.get(), any, size) == 0 && ::listen(listener.get(), 64) == 0 &&
                      ::getsockname(listener.get(), any, &size) == 0;
    EXPECT_TRUE(good);
    return {std::move(listener), "tcp:127.0.0.1:" + std::to_string(ntohs(address.sin_port))};
}

Relay::Pair::Pair(Fd one, Fd other)
    : caller(std::move(one)), callee(std::move(other)), there([this] { pump(caller.get(), callee.get()); }),
      back([this] { pump(callee.get(), caller.get()); }) {}

Relay::Pair::~Pair() {
    ::shutdown(caller.get(), SHUT_RDWR);
    ::shutdown(callee.get(), SHUT_RDWR);
    there.join();
    back.join();
}

Relay::Relay(const std::string& target) : target_(port_of(target)) {
    std::tie(listener_, uri_) = listen_on_loopback();
    thread_ = std::thread{[this] { serve(); }};
}

Relay::~Relay() {
    stop_ = true;
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
    cut();
}

void Relay::cut() {
    std::list<Pair> ended;
    {
        const std::lock_guard lock{mutex_};
        ended.swap(pairs_);
    }
    for (const Pair& pair : ended) { // all at once, then each is waited for
        ::shutdown(pair.caller.get(), SHUT_RDWR);
        ::shutdown(pair.callee.get(), SHUT_RDWR);
    }
}

void Relay::serve() {
    while (!stop_) {
        Fd caller{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)};
        if (!caller) {
            continue;
        }
        Fd callee{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
        const auto address = loopback(target_);
        if (::connect(callee.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
            continue; // nobody is there: the caller's connection ends
        }
        const int one = 1;
        ::setsockopt(caller.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        ::setsockopt(callee.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        const std::lock_guard lock{mutex_};
        pairs_.emplace_back(std::move(caller), std::move(callee));
    }
}

} // namespace pageferry::engine::testing
