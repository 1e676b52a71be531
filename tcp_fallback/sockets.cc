#include "tcp_fallback/sockets.h"

#include "transport/plugin/address.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace pageferry::tcp {

namespace {

std::string name_of(int socket, int (*ask)(int, sockaddr*, socklen_t*)) {
    Endpoint endpoint;
    endpoint.length = sizeof endpoint.storage;
    if (ask(socket, endpoint.address(), &endpoint.length) != 0) {
        return "unknown";
    }
    return endpoint.to_string();
}

} // namespace

Result<void> set_options(int socket, std::uint32_t dead_peer_ms) {
    int domain = 0;
    socklen_t size = sizeof domain;
    if (::getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0) {
        return std::unexpected{errno_error(errno, "getsockopt", "SO_DOMAIN")};
    }
    if (domain != AF_INET && domain != AF_INET6) {
        return {};
    }
    // First probe after half the time, then every second; with TCP_USER_TIMEOUT set the kernel stops by time, not by count.
    const int idle = static_cast<int>(std::clamp<std::uint32_t>(dead_peer_ms / 2000, 1, 32767));
    const int count = static_cast<int>(std::clamp<std::uint32_t>(dead_peer_ms / 1000 - dead_peer_ms / 2000, 1, 127));
    const struct {
        int level;
        int name;
        int value;
        const char* text;
    } options[] = {
        {.level = SOL_SOCKET, .name = SO_KEEPALIVE, .value = 1, .text = "SO_KEEPALIVE"},
        {.level = IPPROTO_TCP, .name = TCP_NODELAY, .value = 1, .text = "TCP_NODELAY"},
        {.level = IPPROTO_TCP, .name = TCP_KEEPIDLE, .value = idle, .text = "TCP_KEEPIDLE"},
        {.level = IPPROTO_TCP, .name = TCP_KEEPINTVL, .value = 1, .text = "TCP_KEEPINTVL"},
        {.level = IPPROTO_TCP, .name = TCP_KEEPCNT, .value = count, .text = "TCP_KEEPCNT"},
        {.level = IPPROTO_TCP,
         .name = TCP_USER_TIMEOUT,
         .value = static_cast<int>(std::min<std::uint32_t>(dead_peer_ms, INT32_MAX)),
         .text = "TCP_USER_TIMEOUT"},
    };
    for (const auto& option : options) {
        if (::setsockopt(socket, option.level, option.name, &option.value, sizeof option.value) != 0) {
            return std::unexpected{errno_error(errno, "setsockopt", option.text)};
        }
    }
    return {};
}

std::string local_name(int socket) {
    return name_of(socket, ::getsockname);
}

std::string peer_name(int socket) {
    return name_of(socket, ::getpeername);
}

Transfer send_now(int socket, std::span<const std::byte> bytes) {
    for (;;) {
        const ssize_t sent = ::send(socket, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) {
            return Transfer{.bytes = static_cast<std::size_t>(sent)};
        }
        if (errno != EINTR) {
            return Transfer{.error = errno == EAGAIN ? 0 : errno};
        }
    }
}

Transfer receive_now(int socket, std::span<std::byte> bytes) {
    for (;;) {
        const ssize_t got = ::recv(socket, bytes.data(), bytes.size(), MSG_DONTWAIT);
        if (got >= 0) {
            return Transfer{.bytes = static_cast<std::size_t>(got), .ended = got == 0};
        }
        if (errno != EINTR) {
            return Transfer{.error = errno == EAGAIN ? 0 : errno};
        }
    }
}

} // namespace pageferry::tcp
