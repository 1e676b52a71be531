#include "hypervisor/qemu/agent_client.h"

#include "hypervisor/qemu/agent/agent_protocol.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace pageferry::hypervisor {

namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* agent_name = "the agent in QEMU";

std::unexpected<Error> closed(const char* operation) {
    return std::unexpected(make_error(ErrorCode::closed, operation, agent_name, "it is gone, and QEMU probably with it"));
}

// Waits for the socket; timed_out at the deadline.
Result<void> wait_for(int socket, short events, Clock::time_point deadline, const char* operation) {
    for (;;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
        pollfd entry{.fd = socket, .events = events, .revents = 0};
        const int ready = ::poll(&entry, 1, static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000)));
        if (ready > 0) {
            return {};
        }
        if (ready < 0 && errno != EINTR) {
            return std::unexpected(errno_error(errno, operation, agent_name));
        }
        if (Clock::now() >= deadline) {
            return std::unexpected(
                make_error(ErrorCode::timed_out, operation, agent_name, "no answer in time",
                           "is QEMU stopped by a signal, or statically linked so that nothing can be preloaded?"));
        }
    }
}

} // namespace

struct AgentClient::Item {
    pf_agent_mapping packet{}; // the largest; the others begin alike
    std::size_t length = 0;
    Fd fd;

    template <class T>
    [[nodiscard]] T as() const {
        T value{};
        std::memcpy(&value, &packet, std::min(sizeof value, length));
        return value;
    }
};

AgentClient::AgentClient(Fd socket, std::chrono::milliseconds timeout) : socket_(std::move(socket)), timeout_(timeout) {}

// True: the item is part of this answer. False: it was a late one of an earlier request.
Result<bool> AgentClient::receive(Item& item, Clock::time_point deadline, const char* operation) {
    if (auto ready = wait_for(socket_.get(), POLLIN, deadline, operation); !ready) {
        return std::unexpected(ready.error());
    }
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    iovec data{.iov_base = &item.packet, .iov_len = sizeof item.packet};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0) {
        if (errno == EAGAIN || errno == EINTR) {
            return false;
        }
        return errno == ECONNRESET ? Result<bool>{closed(operation)} : std::unexpected(errno_error(errno, operation, agent_name));
    }
    if (const cmsghdr* rights = CMSG_FIRSTHDR(&message); rights != nullptr && rights->cmsg_type == SCM_RIGHTS) {
        int number = -1;
        std::memcpy(&number, CMSG_DATA(rights), sizeof number);
        item.fd.reset(number);
    }
    if (got == 0) {
        return closed(operation);
    }
    item.length = static_cast<std::size_t>(got);
    const auto header = item.as<pf_agent_header>();
    const bool whole =
        (header.kind == PF_AGENT_END && item.length == sizeof(pf_agent_header)) ||
        (header.kind == PF_AGENT_HANDLE && item.length == sizeof(pf_agent_handle)) ||
        ((header.kind == PF_AGENT_MAPPING || header.kind == PF_AGENT_DISK) && item.length == sizeof(pf_agent_mapping));
    if (header.magic != PF_AGENT_MAGIC || (message.msg_flags & MSG_TRUNC) != 0 ||
        (header.version == PF_AGENT_VERSION && !whole)) {
        return std::unexpected(make_error(ErrorCode::protocol, operation, agent_name, "its answer is malformed"));
    }
    if (header.version != PF_AGENT_VERSION) {
        return std::unexpected(make_error(ErrorCode::version, operation, agent_name, "it is another build's",
                                          "use pageferry and libpageferry-agent.so of one installation"));
    }
    return header.sequence == sequence_;
}

Result<std::vector<AgentClient::Item>> AgentClient::ask(std::uint16_t type, std::uint64_t address, std::uint64_t length,
                                                        const char* operation) {
    const auto deadline = Clock::now() + timeout_;
    const pf_agent_request request{.magic = PF_AGENT_MAGIC,
                                   .version = PF_AGENT_VERSION,
                                   .type = type,
                                   .sequence = ++sequence_,
                                   .address = address,
                                   .length = length};
    while (::send(socket_.get(), &request, sizeof request, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        if (errno == EPIPE || errno == ECONNRESET) {
            return closed(operation);
        }
        if (errno != EAGAIN && errno != EINTR) {
            return std::unexpected(errno_error(errno, operation, agent_name));
        }
        if (auto ready = wait_for(socket_.get(), POLLOUT, deadline, operation); !ready) {
            return std::unexpected(ready.error());
        }
    }
    std::vector<Item> items;
    for (;;) {
        Item item;
        auto mine = receive(item, deadline, operation);
        if (!mine) {
            return std::unexpected(mine.error());
        }
        if (!*mine) {
            continue;
        }
        const auto header = item.as<pf_agent_header>();
        if (header.kind != PF_AGENT_END) {
            items.push_back(std::move(item));
        } else if (header.error != 0) {
            return std::unexpected(errno_error(header.error, operation, agent_name));
        } else {
            return items;
        }
    }
}

Result<AgentHandles> AgentClient::handles() {
    auto items = ask(PF_AGENT_HANDLES, 0, 0, "get handles");
    if (!items) {
        return std::unexpected(items.error());
    }
    AgentHandles handles;
    for (Item& item : *items) {
        const auto packet = item.as<pf_agent_handle>();
        AgentHandle handle{.fd = std::move(item.fd), .error = packet.header.error};
        switch (packet.what) {
        case PF_AGENT_HANDLE_TRACKING: handles.tracking = std::move(handle); break;
        case PF_AGENT_HANDLE_FAULT: handles.faults.push_back(std::move(handle)); break;
        case PF_AGENT_HANDLE_PAGEMAP: handles.pagemap = std::move(handle); break;
        case PF_AGENT_HANDLE_CLEAR_REFS: handles.clear_refs = std::move(handle); break;
        case PF_AGENT_HANDLE_DISCARDS: handles.discards = std::move(handle); break;
        default: return std::unexpected(make_error(ErrorCode::protocol, "get handles", agent_name, "it sent an unknown handle"));
        }
    }
    return handles;
}

Result<std::vector<AgentMapping>> AgentClient::mappings() {
    auto items = ask(PF_AGENT_MAPPINGS, 0, 0, "list mappings");
    if (!items) {
        return std::unexpected(items.error());
    }
    std::vector<AgentMapping> mappings;
    for (Item& item : *items) {
        const pf_agent_mapping& packet = item.packet;
        if (packet.header.kind != PF_AGENT_MAPPING) {
            return std::unexpected(make_error(ErrorCode::protocol, "list mappings", agent_name, "it sent something else"));
        }
        mappings.push_back({.address = packet.address,
                            .length = packet.length,
                            .file_offset = packet.file_offset,
                            .device = packet.device,
                            .inode = packet.inode,
                            .page_size = packet.page_size,
                            .file_system = packet.file_system,
                            .path = std::string(packet.path, ::strnlen(packet.path, sizeof packet.path)),
                            .fd = std::move(item.fd),
                            .error = packet.header.error});
    }
    std::ranges::sort(mappings, {}, &AgentMapping::address);
    return mappings;
}

Result<std::vector<std::string>> AgentClient::make_disks_buffered() {
    auto items = ask(PF_AGENT_BUFFERED, 0, 0, "switch disks to buffered I/O");
    if (!items) {
        return std::unexpected(items.error());
    }
    std::vector<std::string> paths;
    for (const Item& item : *items) {
        paths.emplace_back(item.packet.path, ::strnlen(item.packet.path, sizeof item.packet.path));
    }
    return paths;
}

Result<void> AgentClient::make_disks_direct() {
    auto items = ask(PF_AGENT_DIRECT, 0, 0, "switch disks back to direct I/O");
    return items ? Result<void>{} : std::unexpected(items.error());
}

Result<void> AgentClient::zap(std::uint64_t address, std::uint64_t length) {
    auto items = ask(PF_AGENT_ZAP, address, length, "zap page tables");
    return items ? Result<void>{} : std::unexpected(items.error());
}

Result<Fd> AgentClient::new_userfaultfd() {
    auto items = ask(PF_AGENT_USERFAULTFD, 0, 0, "make a userfaultfd");
    if (!items) {
        return std::unexpected(items.error());
    }
    if (items->size() != 1) {
        return std::unexpected(make_error(ErrorCode::protocol, "make a userfaultfd", agent_name, "it sent no handle"));
    }
    Item& item = items->front();
    if (!item.fd) {
        return std::unexpected(errno_error(item.as<pf_agent_handle>().header.error, "make a userfaultfd", agent_name,
                                           "give QEMU's user access to /dev/userfaultfd"));
    }
    return std::move(item.fd);
}

Result<void> AgentClient::release_faults() {
    auto items = ask(PF_AGENT_RELEASE, 0, 0, "release userfaultfds");
    return items ? Result<void>{} : std::unexpected(items.error());
}

} // namespace pageferry::hypervisor
