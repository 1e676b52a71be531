#include "monitor/passed_sockets.h"

#include "transport/uri.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstddef>
#include <cstring>

namespace pageferry::monitor {

namespace {

std::string tcp_uri(std::string host, in_port_t port) {
    return transport::Uri{.scheme = "tcp", .host = std::move(host), .port = ntohs(port), .path = {}, .text = {}}.to_string();
}

std::string ipv6_host(const sockaddr_in6& address) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    if (IN6_IS_ADDR_V4MAPPED(&address.sin6_addr)) {
        return ::inet_ntop(AF_INET, &address.sin6_addr.s6_addr[12], text.data(), text.size());
    }
    std::string host = ::inet_ntop(AF_INET6, &address.sin6_addr, text.data(), text.size());
    std::array<char, IF_NAMESIZE> interface{};
    if (address.sin6_scope_id != 0 && ::if_indextoname(address.sin6_scope_id, interface.data()) != nullptr) {
        host += std::string{"%"} + interface.data();
    }
    return host;
}

std::optional<std::string> peer_of(const Fd& socket) {
    int type = 0;
    socklen_t size = sizeof type;
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM ||
        ::getpeername(socket.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) { // NOLINT(*-reinterpret-cast)
        return std::nullopt;
    }
    if (address.ss_family == AF_INET) {
        sockaddr_in of{};
        std::memcpy(&of, &address, sizeof of);
        std::array<char, INET_ADDRSTRLEN> text{};
        return tcp_uri(::inet_ntop(AF_INET, &of.sin_addr, text.data(), text.size()), of.sin_port);
    }
    if (address.ss_family == AF_INET6) {
        sockaddr_in6 of{};
        std::memcpy(&of, &address, sizeof of);
        return tcp_uri(ipv6_host(of), of.sin6_port);
    }
    if (address.ss_family == AF_UNIX && length > offsetof(sockaddr_un, sun_path)) {
        sockaddr_un of{};
        std::memcpy(&of, &address, sizeof of);
        const std::size_t longest = length - offsetof(sockaddr_un, sun_path);
        const std::string path{static_cast<const char*>(of.sun_path), ::strnlen(static_cast<const char*>(of.sun_path), longest)};
        return path.starts_with('/') ? std::optional{"unix:" + path} : std::nullopt; // relative to whom, nobody can say
    }
    return std::nullopt;
}

} // namespace

void PassedSockets::passed(const std::string& name, std::span<const Fd> fds) {
    sockets_.erase(name);
    if (fds.size() == 1 && peer_of(fds.front())) {
        if (Fd own = fds.front().duplicate()) {
            sockets_.emplace(name, std::move(own));
        }
    }
}

std::optional<std::string> PassedSockets::peer(const std::string& name) const {
    const auto found = sockets_.find(name);
    return found == sockets_.end() ? std::nullopt : peer_of(found->second);
}

void PassedSockets::shut_down(const std::string& name) {
    if (const auto found = sockets_.find(name); found != sockets_.end()) {
        ::shutdown(found->second.get(), SHUT_RDWR);
        sockets_.erase(found);
        if (close_at_qemu_) {
            close_at_qemu_(name);
        }
    }
}

} // namespace pageferry::monitor
