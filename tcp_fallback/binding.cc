// How a listener gets its sockets: the part of Listener that deals with ports and socket files.
#include "tcp_fallback/address.h"
#include "tcp_fallback/listener.h"
#include "tcp_fallback/sockets.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace pageferry::tcp {

namespace {

constexpr int backlog = 128;

std::unexpected<Fault> cannot(int error, const transport::Uri& uri) {
    std::string remedy;
    switch (error) {
    case EADDRINUSE: remedy = "another process listens there: stop it, or choose another port (0: any free one)"; break;
    case EACCES: remedy = "choose a port of 1024 or above, or a directory that this user may write"; break;
    case EADDRNOTAVAIL: remedy = "give an address of this host, or none to listen on all"; break;
    case ENOENT: remedy = "create the directory of the socket first"; break;
    default: break;
    }
    return failed(errno_error(error, "listen", uri.to_string(), std::move(remedy)));
}

// A bound and listening socket; errno when it cannot be had.
Result<Fd> bind_to(const Endpoint& endpoint) {
    const auto failure = [] { return std::unexpected{errno_error(errno, "listen")}; };
    Fd socket{::socket(endpoint.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    if (!socket) {
        return failure();
    }
    const int on = 1;
    const int off = 0;
    if (endpoint.family() != AF_UNIX && ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0) {
        return failure();
    }
    if (endpoint.family() == AF_INET6) {
        const bool any = IN6_IS_ADDR_UNSPECIFIED(&reinterpret_cast<const sockaddr_in6&>(endpoint.storage).sin6_addr);
        if (::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, any ? &off : &on, sizeof on) != 0) {
            return failure();
        }
    }
    if (::bind(socket.get(), endpoint.address(), endpoint.length) != 0 || ::listen(socket.get(), backlog) != 0) {
        return failure();
    }
    return socket;
}

std::uint16_t bound_port(int socket) {
    Endpoint bound;
    bound.length = sizeof bound.storage;
    return ::getsockname(socket, bound.address(), &bound.length) == 0 ? bound.port() : std::uint16_t{0};
}

bool absent(int error) {
    return error == EAFNOSUPPORT || error == EADDRNOTAVAIL;
}

} // namespace

Outcome<void> Listener::bind_tcp() {
    auto endpoints = resolve(uri_, Purpose::listening, Deadline::in(options_.handshake_ms), -1);
    if (!endpoints) {
        endpoints.error().phase = 0;
        return std::unexpected{std::move(endpoints.error())};
    }
    int error = 0;
    // A name such as "localhost" has several addresses: all of them, on one port.
    for (Endpoint& endpoint : *endpoints) {
        endpoint.set_port(uri_.port);
        auto socket = bind_to(endpoint);
        if (!socket && uri_.host.empty() && absent(socket.error().native)) {
            Endpoint four; // no IPv6 on this host
            four.storage.ss_family = AF_INET;
            four.length = sizeof(sockaddr_in);
            four.set_port(uri_.port);
            socket = bind_to(four);
        }
        if (!socket) {
            error = socket.error().native;
            if (absent(error)) {
                continue;
            }
            return cannot(error, uri_);
        }
        uri_.port = bound_port(socket->get());
        sockets_.push_back(std::move(*socket));
    }
    if (sockets_.empty()) {
        return cannot(error, uri_);
    }
    return {};
}

Outcome<void> Listener::bind_unix() {
    auto endpoint = unix_endpoint(uri_);
    if (!endpoint) {
        return failed(std::move(endpoint.error()));
    }
    auto socket = bind_to(*endpoint);
    if (!socket && socket.error().native == EADDRINUSE) {
        struct stat status{};
        if (::lstat(uri_.path.c_str(), &status) == 0 && !S_ISSOCK(status.st_mode)) {
            return failed(make_error(ErrorCode::in_use, "listen", uri_.to_string(),
                                     "there is a file of that name that is no socket", "remove it, or choose another path"));
        }
        // Left behind by a process that is gone? Only then does nobody take the call.
        const Fd trial{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
        if (!trial || ::connect(trial.get(), endpoint->address(), endpoint->length) == 0 || errno != ECONNREFUSED) {
            return cannot(EADDRINUSE, uri_);
        }
        if (::unlink(uri_.path.c_str()) != 0 && errno != ENOENT) {
            return cannot(errno, uri_);
        }
        socket = bind_to(*endpoint);
    }
    if (!socket) {
        return cannot(socket.error().native, uri_);
    }
    struct stat status{};
    if (::lstat(uri_.path.c_str(), &status) == 0) {
        file_ = {status.st_dev, status.st_ino};
    }
    sockets_.push_back(std::move(*socket));
    return {};
}

Listener::~Listener() {
    // Not a file that somebody has put in its place since.
    struct stat status{};
    if (file_ && ::lstat(uri_.path.c_str(), &status) == 0 && std::pair{status.st_dev, status.st_ino} == *file_) {
        ::unlink(uri_.path.c_str());
    }
}

} // namespace pageferry::tcp
