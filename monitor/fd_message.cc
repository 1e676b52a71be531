#include "monitor/fd_message.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace pageferry::monitor {

namespace {

constexpr std::size_t most_fds = 253; // the kernel's SCM_MAX_FD

struct alignas(cmsghdr) Control {
    std::array<char, CMSG_SPACE(most_fds * sizeof(int))> bytes{};
};

void collect_fds(msghdr& message, std::vector<Fd>& fds) {
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int number = -1;
            std::memcpy(&number, CMSG_DATA(header) + i * sizeof(int), sizeof number);
            fds.emplace_back(number);
        }
    }
}

Result<std::size_t> send_once(int socket, std::string_view bytes, std::span<const Fd> fds) {
    iovec vector{.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()}; // NOLINT: sendmsg does not write
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    Control control;
    const std::size_t count = std::min(fds.size(), most_fds);
    if (count > 0) {
        message.msg_control = control.bytes.data();
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        cmsghdr* const header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof(int));
        for (std::size_t i = 0; i < count; ++i) {
            const int number = fds[i].get();
            std::memcpy(CMSG_DATA(header) + i * sizeof(int), &number, sizeof number);
        }
    }
    ssize_t sent = -1;
    do {
        sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) {
        return std::unexpected{errno_error(errno, "sendmsg")};
    }
    return static_cast<std::size_t>(sent);
}

} // namespace

Result<Received> receive_with_fds(int socket, std::span<char> buffer) {
    iovec vector{.iov_base = buffer.data(), .iov_len = buffer.size()};
    Control control;
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes.data();
    message.msg_controllen = control.bytes.size();
    ssize_t got = -1;
    do {
        got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return std::unexpected{errno_error(errno, "recvmsg")};
    }
    Received received;
    received.bytes = static_cast<std::size_t>(got);
    collect_fds(message, received.fds);
    return received;
}

Result<std::size_t> send_with_fds(int socket, std::string_view bytes, std::span<const Fd> fds) {
    auto sent = send_once(socket, bytes, fds);
    if (!sent && !fds.empty() && sent.error().native == ETOOMANYREFS) {
        sent = send_once(socket, bytes, {});
    }
    return sent;
}

} // namespace pageferry::monitor
