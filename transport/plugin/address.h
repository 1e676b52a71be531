// Socket addresses, and how a URI becomes some.
//
// Threads: any; no state.
#pragma once

#include "transport/plugin/deadline.h"
#include "transport/plugin/fault.h"
#include "transport/uri.h"

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <vector>

namespace pageferry::plugin {

struct Endpoint {
    sockaddr_storage storage{};
    socklen_t length = 0;

    [[nodiscard]] sockaddr* address() { return reinterpret_cast<sockaddr*>(&storage); }
    [[nodiscard]] const sockaddr* address() const { return reinterpret_cast<const sockaddr*>(&storage); }
    [[nodiscard]] int family() const { return storage.ss_family; }
    [[nodiscard]] std::uint16_t port() const; // 0 where there is none
    void set_port(std::uint16_t port);
    [[nodiscard]] bool is_any() const; // 0.0.0.0, [::]
    // "192.0.2.1:4444", "[::1]:4444", "unix:/path"; IPv4 within IPv6 is shown as IPv4.
    [[nodiscard]] std::string to_string() const;
};

enum class Purpose { connecting, listening };

// All addresses of a URI's host, in the resolver's order; never empty. An empty host is this machine (connecting), or any
// address (listening: IPv6 that takes IPv4 too, then IPv4). A name is looked up by a thread of its own, which is left behind when
// the deadline passes or the event descriptor cancel (-1: none) is raised: getaddrinfo(3) cannot be interrupted. not_found: no
// such host. unreachable: no name server answers. timed_out, cancelled.
Outcome<std::vector<Endpoint>> resolve(const transport::Uri& uri, Purpose purpose, const Deadline& deadline, int cancel);

} // namespace pageferry::plugin
