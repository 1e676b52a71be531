#include "hypervisor/qemu/monitor_socket.h"

#include "hypervisor/qemu/text.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <memory>
#include <utility>

namespace pageferry::hypervisor {

namespace {

constexpr int backlog = 1; // as QEMU: one client at a time, one waiting

struct UnixAddress {
    sockaddr_un address{};
    socklen_t length = 0;
};

const sockaddr* generic(const sockaddr_un& address) {
    return reinterpret_cast<const sockaddr*>(&address); // what bind and connect take
}

Result<UnixAddress> unix_address(const PlannedMonitor& plan) {
    UnixAddress result;
    result.address.sun_family = AF_UNIX;
    const std::size_t room = sizeof result.address.sun_path - 1;
    if (plan.path.empty() || plan.path.size() > room) {
        return std::unexpected(make_error(ErrorCode::invalid_argument, "open the monitor", plan.address,
                                          join("a socket's path has 1 to ", room, " bytes"), "use a shorter path"));
    }
    char* const at = result.address.sun_path + (plan.abstract ? 1 : 0);
    std::ranges::copy(plan.path, at); // the rest is zeros already
    const std::size_t tight = offsetof(sockaddr_un, sun_path) + 1 + plan.path.size();
    result.length = static_cast<socklen_t>(plan.abstract && !plan.tight ? sizeof result.address : tight);
    return result;
}

Error socket_error(const char* operation, const PlannedMonitor& plan) {
    const int number = errno;
    return errno_error(number, operation, "monitor " + plan.address);
}

struct FreeAddresses {
    void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

Result<Addresses> resolve(const PlannedMonitor& plan, const std::string& port, bool listening) {
    addrinfo hints{};
    hints.ai_flags = listening ? AI_PASSIVE : AI_ADDRCONFIG;
    hints.ai_socktype = SOCK_STREAM;
    const bool only_4 = plan.ipv6 == false || (plan.ipv4 == true && plan.ipv6 != true);
    const bool only_6 = plan.ipv4 == false || (plan.ipv6 == true && plan.ipv4 != true);
    hints.ai_family = only_4 ? AF_INET : only_6 ? AF_INET6 : AF_UNSPEC;
    addrinfo* list = nullptr;
    if (const int error = ::getaddrinfo(plan.host.empty() ? nullptr : plan.host.c_str(), port.c_str(), &hints, &list);
        error != 0) {
        return std::unexpected(make_error(ErrorCode::not_found, "resolve", "monitor " + plan.address, ::gai_strerror(error)));
    }
    return Addresses{list};
}

// Listens on every address of the host, all with the same port.
Result<std::vector<Fd>> listen_on_port(const PlannedMonitor& plan, const std::string& port) {
    auto addresses = resolve(plan, port, true);
    if (!addresses) {
        return std::unexpected(addresses.error());
    }
    std::vector<Fd> listeners;
    for (const addrinfo* a = addresses->get(); a != nullptr; a = a->ai_next) {
        Fd fd{::socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, a->ai_protocol)};
        const int on = 1;
        if (!fd) {
            continue; // this machine has no such address family
        }
        ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (a->ai_family == AF_INET6) {
            ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on); // the IPv4 address has a socket of its own
        }
        if (::bind(fd.get(), a->ai_addr, a->ai_addrlen) != 0 || ::listen(fd.get(), backlog) != 0) {
            return std::unexpected(socket_error("listen", plan));
        }
        listeners.push_back(std::move(fd));
    }
    if (listeners.empty()) {
        return std::unexpected(socket_error("listen", plan));
    }
    return listeners;
}

} // namespace

MonitorSocket::MonitorSocket(MonitorSocket&& other) noexcept
    : listeners_(std::move(other.listeners_)), connected_(std::move(other.connected_)), input_(std::move(other.input_)),
      output_(std::move(other.output_)), unlink_path_(std::exchange(other.unlink_path_, {})) {}

MonitorSocket::~MonitorSocket() {
    if (!unlink_path_.empty()) {
        ::unlink(unlink_path_.c_str());
    }
}

Result<MonitorSocket> MonitorSocket::open(const PlannedMonitor& plan) {
    MonitorSocket socket;
    Result<void> done;
    switch (plan.kind) {
    case MonitorKind::unix_listen: done = socket.listen_unix(plan); break;
    case MonitorKind::unix_connect: done = socket.connect_unix(plan); break;
    case MonitorKind::tcp_listen:
    case MonitorKind::tcp_connect: done = socket.tcp(plan); break;
    case MonitorKind::fd_listen:
    case MonitorKind::fd_connected: done = socket.inherited(plan); break;
    case MonitorKind::stdio: done = socket.stdio(); break;
    }
    if (done && plan.wait) {
        done = socket.wait_for_client(plan);
    }
    if (!done) {
        return std::unexpected(done.error());
    }
    return socket;
}

Result<void> MonitorSocket::listen_unix(const PlannedMonitor& plan) {
    auto address = unix_address(plan);
    if (!address) {
        return std::unexpected(address.error());
    }
    Fd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (!fd) {
        return std::unexpected(socket_error("socket", plan));
    }
    if (!plan.abstract) {
        struct stat about{};
        if (::lstat(plan.path.c_str(), &about) == 0) {
            if (!S_ISSOCK(about.st_mode)) {
                return std::unexpected(make_error(ErrorCode::in_use, "listen", "monitor " + plan.address,
                                                  "there is something there that is no socket",
                                                  "remove it, or use another path"));
            }
            ::unlink(plan.path.c_str());
        }
    }
    if (::bind(fd.get(), generic(address->address), address->length) != 0) {
        return std::unexpected(socket_error("bind", plan));
    }
    if (!plan.abstract) {
        std::error_code error;
        unlink_path_ = std::filesystem::absolute(plan.path, error);
    }
    if (::listen(fd.get(), backlog) != 0) {
        return std::unexpected(socket_error("listen", plan));
    }
    listeners_.push_back(std::move(fd));
    return {};
}

Result<void> MonitorSocket::connect_unix(const PlannedMonitor& plan) {
    auto address = unix_address(plan);
    if (!address) {
        return std::unexpected(address.error());
    }
    connected_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!connected_ || ::connect(connected_.get(), generic(address->address), address->length) != 0) {
        return std::unexpected(socket_error("connect", plan));
    }
    return {};
}

Result<void> MonitorSocket::tcp(const PlannedMonitor& plan) {
    if (plan.kind == MonitorKind::tcp_listen) {
        unsigned port = 0;
        std::from_chars(plan.port.data(), plan.port.data() + plan.port.size(), port);
        auto listeners = listen_on_port(plan, plan.port);
        while (!listeners && listeners.error().code == ErrorCode::in_use && plan.to && port < *plan.to) {
            listeners = listen_on_port(plan, std::to_string(++port));
        }
        if (!listeners) {
            return std::unexpected(listeners.error());
        }
        listeners_ = std::move(*listeners);
        return {};
    }
    auto addresses = resolve(plan, plan.port, false);
    if (!addresses) {
        return std::unexpected(addresses.error());
    }
    for (const addrinfo* a = addresses->get(); a != nullptr; a = a->ai_next) {
        connected_.reset(::socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, a->ai_protocol));
        if (connected_ && ::connect(connected_.get(), a->ai_addr, a->ai_addrlen) == 0) {
            const int on = plan.nodelay ? 1 : 0;
            ::setsockopt(connected_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            return {};
        }
    }
    return std::unexpected(socket_error("connect", plan));
}

Result<void> MonitorSocket::inherited(const PlannedMonitor& plan) {
    int listening = 0;
    socklen_t length = sizeof listening;
    if (::getsockopt(plan.fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) != 0) {
        return std::unexpected(socket_error("use the inherited descriptor", plan));
    }
    const bool server = plan.kind == MonitorKind::fd_listen;
    if ((listening != 0) != server) {
        return std::unexpected(make_error(ErrorCode::invalid_argument, "use the inherited descriptor", "monitor " + plan.address,
                                          server ? "it does not listen" : "it listens",
                                          server ? "leave server=on out" : "add server=on,wait=off"));
    }
    ::fcntl(plan.fd, F_SETFD, FD_CLOEXEC); // the monitor process's from now on, and no longer QEMU's
    if (server) {
        listeners_.emplace_back(plan.fd);
    } else {
        connected_.reset(plan.fd);
    }
    return {};
}

Result<void> MonitorSocket::stdio() {
    input_.reset(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3));
    output_.reset(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
    if (!input_ || !output_) {
        return std::unexpected(errno_error(errno, "duplicate", "stdio"));
    }
    return {};
}

Result<void> MonitorSocket::wait_for_client(const PlannedMonitor& plan) {
    std::cerr << "pageferry: info: QEMU waiting for connection on: " << plan.address << ",server=on\n";
    std::vector<pollfd> entries;
    entries.reserve(listeners_.size());
    for (const Fd& listener : listeners_) {
        entries.push_back({.fd = listener.get(), .events = POLLIN, .revents = 0});
    }
    for (;;) {
        if (::poll(entries.data(), entries.size(), -1) < 0) {
            if (errno == EINTR) {
                continue;
            }
            return std::unexpected(socket_error("wait for a client", plan));
        }
        for (const pollfd& entry : entries) {
            if (entry.revents == 0) {
                continue;
            }
            connected_.reset(::accept4(entry.fd, nullptr, nullptr, SOCK_CLOEXEC));
            if (connected_) {
                return {};
            }
            if (const int error = errno; error != EAGAIN && error != EINTR && error != ECONNABORTED) {
                return std::unexpected(socket_error("accept", plan));
            }
        }
    }
}

UserMonitor MonitorSocket::describe(const PlannedMonitor& plan, int backend) const {
    UserMonitor monitor{.id = plan.id, .address = plan.address};
    for (const Fd& listener : listeners_) {
        if (monitor.listen_fd < 0) {
            monitor.listen_fd = listener.get();
        } else {
            monitor.more_listen_fds.push_back(listener.get());
        }
    }
    monitor.connected_fd = connected_.get();
    monitor.input_fd = input_.get();
    monitor.output_fd = output_.get();
    monitor.backend_fd = backend;
    monitor.pretty = plan.pretty;
    monitor.tcp_nodelay = plan.nodelay;
    monitor.unlink_path = unlink_path_;
    return monitor;
}

void MonitorSocket::append_numbers(std::vector<int>& to) const {
    for (const Fd& listener : listeners_) {
        to.push_back(listener.get());
    }
    for (const Fd* fd : {&connected_, &input_, &output_}) {
        if (*fd) {
            to.push_back(fd->get());
        }
    }
}

} // namespace pageferry::hypervisor
