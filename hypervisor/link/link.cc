#include "hypervisor/link/link.h"

#include "hypervisor/link/messages.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

namespace pageferry::hypervisor {

namespace {
constexpr std::size_t most_fds = 253;                 // SCM_MAX_FD, include/net/scm.h
constexpr std::size_t largest_message = 128UL * 1024; // bytes; a start message names at most 128 blocks
constexpr const char* object = "link between monitor and mover";
} // namespace

Result<std::pair<Link, Link>> Link::make_pair() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
        return std::unexpected(errno_error(errno, "socketpair", object));
    }
    return std::pair{Link{Fd{ends[0]}}, Link{Fd{ends[1]}}};
}

Result<void> Link::send(const nlohmann::json& message, std::span<const int> fds) const {
    if (fds.size() > most_fds) {
        return std::unexpected(
            make_error(ErrorCode::invalid_argument, "send", object, std::to_string(fds.size()) + " descriptors in one message"));
    }
    std::string text = message.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    iovec vector{.iov_base = text.data(), .iov_len = text.size()};
    std::vector<char> control(fds.empty() ? 0 : CMSG_SPACE(fds.size_bytes()));
    msghdr header{};
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    if (!fds.empty()) {
        header.msg_control = control.data();
        header.msg_controllen = control.size();
        cmsghdr* part = CMSG_FIRSTHDR(&header);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(fds.size_bytes());
        std::memcpy(CMSG_DATA(part), fds.data(), fds.size_bytes());
    }
    while (::sendmsg(socket_.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        if (errno == EINTR) {
            continue;
        }
        Error error = errno_error(errno, "send", object);
        if (error.code == ErrorCode::again) {
            error.code = ErrorCode::resources;
            error.reason = "the other process does not read what it is sent";
        }
        return std::unexpected(std::move(error));
    }
    return {};
}

Result<std::unique_ptr<LinkMessage>> Link::receive(std::chrono::milliseconds timeout) const {
    pollfd polled{.fd = socket_.get(), .events = POLLIN | POLLRDHUP, .revents = 0};
    const int ready = ::poll(&polled, 1, static_cast<int>(timeout.count()));
    if (ready < 0 && errno != EINTR) {
        return std::unexpected(errno_error(errno, "poll", object));
    }
    if (ready <= 0) {
        return std::unique_ptr<LinkMessage>{};
    }
    std::string text(largest_message, '\0');
    std::vector<char> control(CMSG_SPACE(most_fds * sizeof(int)));
    iovec vector{.iov_base = text.data(), .iov_len = text.size()};
    msghdr header{};
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    const ssize_t count = ::recvmsg(socket_.get(), &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (count < 0) {
        if (errno == EAGAIN || errno == EINTR) {
            return std::unique_ptr<LinkMessage>{};
        }
        return std::unexpected(errno_error(errno, "receive", object));
    }
    auto message = std::make_unique<LinkMessage>();
    for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        const std::size_t fds = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < fds; ++i) {
            int number = -1;
            std::memcpy(&number, CMSG_DATA(part) + i * sizeof(int), sizeof number);
            message->fds.emplace_back(number);
        }
    }
    if (count == 0 && (polled.revents & (POLLHUP | POLLRDHUP)) == 0) {
        return std::unexpected(make_error(ErrorCode::protocol, "receive", object, "a message is empty"));
    }
    if (count == 0) {
        return std::unexpected(make_error(ErrorCode::closed, "receive", object, "the other process is gone"));
    }
    if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
        return std::unexpected(make_error(ErrorCode::protocol, "receive", object, "a message was cut off"));
    }
    text.resize(static_cast<std::size_t>(count));
    message->body = nlohmann::json::parse(text, nullptr, false);
    if (!message->body.is_object()) {
        return std::unexpected(make_error(ErrorCode::protocol, "receive", object, "a message is no JSON object"));
    }
    return message;
}

} // namespace pageferry::hypervisor
