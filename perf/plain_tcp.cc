#include "perf/plain_tcp.h"

#include "base/fd.h"
#include "transport/uri.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <span>
#include <vector>

namespace pageferry::perf {

namespace {

using Request = std::array<std::byte, 24>;
using Reply = std::array<std::byte, 4096>;
struct Free {
    void operator()(addrinfo* found) const { ::freeaddrinfo(found); }
};
using Address = std::unique_ptr<addrinfo, Free>;

Result<Address> resolved(const std::string& text) {
    const auto uri = transport::parse_uri(text);
    if (!uri) {
        return std::unexpected(uri.error());
    }
    addrinfo hints{};
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (const int code = ::getaddrinfo(uri->host.c_str(), std::to_string(uri->port).c_str(), &hints, &found); code != 0) {
        return std::unexpected(make_error(ErrorCode::invalid_argument, "resolve", text, ::gai_strerror(code)));
    }
    return Address{found};
}

Result<void> set_up(const Fd& socket, std::chrono::milliseconds timeout) {
    const int yes = 1;
    const timeval longest{.tv_sec = timeout.count() / 1000, .tv_usec = timeout.count() % 1000 * 1000};
    if (::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) != 0 ||
        ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &longest, sizeof longest) != 0) {
        return std::unexpected(errno_error(errno, "setsockopt", "socket"));
    }
    return {};
}

Result<void> send_all(const Fd& socket, std::span<const std::byte> bytes) {
    if (::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(bytes.size())) {
        return std::unexpected(errno_error(errno, "send", "socket")); // blocking: all, or an error
    }
    return {};
}

// false: the other side has closed.
Result<bool> receive_all(const Fd& socket, std::span<std::byte> bytes) {
    const ssize_t got = ::recv(socket.get(), bytes.data(), bytes.size(), MSG_WAITALL);
    if (got == static_cast<ssize_t>(bytes.size())) {
        return true;
    }
    return got == 0 ? Result<bool>{false} : std::unexpected(errno_error(got < 0 ? errno : ECONNRESET, "receive", "socket"));
}

} // namespace

Result<void> serve_plain_tcp(const PlainTcpOptions& options) {
    const auto address = resolved(options.uri);
    if (!address) {
        return std::unexpected(address.error());
    }
    const addrinfo& where = **address;
    const Fd listener{::socket(where.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    const int yes = 1;
    if (!listener || ::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
        ::bind(listener.get(), where.ai_addr, where.ai_addrlen) != 0 || ::listen(listener.get(), 1) != 0) {
        return std::unexpected(errno_error(errno, "listen", options.uri));
    }
    PAGEFERRY_TRY(set_up(listener, options.timeout));
    std::printf("listening %s\n", options.uri.c_str());
    std::fflush(stdout);
    const Fd peer{::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)};
    if (!peer) {
        return std::unexpected(errno_error(errno, "accept", options.uri));
    }
    PAGEFERRY_TRY(set_up(peer, options.timeout));
    Request request{};
    const Reply reply{};
    for (;;) {
        const auto asked = receive_all(peer, request);
        if (!asked) {
            return std::unexpected(asked.error());
        }
        if (!*asked) {
            return {};
        }
        PAGEFERRY_TRY(send_all(peer, reply));
    }
}

Result<Latency> run_plain_tcp(const PlainTcpOptions& options) {
    const auto address = resolved(options.uri);
    if (!address) {
        return std::unexpected(address.error());
    }
    const addrinfo& where = **address;
    const Fd socket{::socket(where.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (!socket || ::connect(socket.get(), where.ai_addr, where.ai_addrlen) != 0) {
        return std::unexpected(errno_error(errno, "connect", options.uri));
    }
    PAGEFERRY_TRY(set_up(socket, options.timeout));
    const Request request{};
    Reply reply{};
    std::vector<double> samples;
    samples.reserve(options.runs);
    for (unsigned i = 0; i < options.warm_up + options.runs; ++i) {
        const auto begin = std::chrono::steady_clock::now();
        PAGEFERRY_TRY(send_all(socket, request));
        const auto here = receive_all(socket, reply);
        if (!here || !*here) {
            return std::unexpected(here ? make_error(ErrorCode::closed, "receive", options.uri, "the other side has closed")
                                        : here.error());
        }
        if (i >= options.warm_up) {
            samples.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
        }
    }
    return latency_of(samples);
}

} // namespace pageferry::perf
