#include "tcp_fallback/control_lane.h"

#include "tcp_fallback/sockets.h"
#include "tcp_fallback/wire.h"
#include "transport/plugin/events.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

namespace pageferry::tcp {

namespace {

constexpr std::size_t kept_max = 256U << 10U; // bytes a slow peer may have us keep, before send() waits
constexpr std::size_t read_max = 2 * (control_header_bytes + PF_CONTROL_MAX);
// When the peer has closed, how long its last messages may take to come by this socket after another one has told the end.
constexpr std::chrono::milliseconds last_words{1000};

} // namespace

ControlLane::ControlLane(const Lane& lane, const Ending& ending) : lane_(lane), ending_(ending), read_(read_max) {}

bool ControlLane::give_up(Fault fault) {
    lane_.fail(std::move(fault));
    return false;
}

Outcome<void> ControlLane::send(std::span<const std::byte> message, const Deadline& deadline) {
    std::array<std::byte, control_header_bytes> header{};
    encode_control_header(static_cast<std::uint32_t>(message.size()), header);
    const std::size_t whole = header.size() + message.size();

    std::unique_lock lock{mutex_};
    while (!ended_ && !kept_.empty() && kept_.size() + whole > kept_max) {
        if (!changed_.wait_until(lock, deadline) && !ended_ && !kept_.empty() && kept_.size() + whole > kept_max) {
            return failed(make_error(ErrorCode::timed_out, "send", lane_.title, "the peer does not take control messages"),
                          lane_.number);
        }
    }
    if (ended_ || ending_.over()) {
        return std::unexpected{ending_.why()};
    }
    std::size_t sent = 0;
    if (kept_.empty() && !flushing_) {
        std::array<iovec, 2> vectors{iovec{.iov_base = header.data(), .iov_len = header.size()},
                                     iovec{.iov_base = const_cast<std::byte*>(message.data()), .iov_len = message.size()}};
        msghdr out{};
        out.msg_iov = vectors.data();
        out.msg_iovlen = vectors.size();
        const ssize_t answer = ::sendmsg(lane_.socket, &out, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (answer < 0 && errno != EAGAIN && errno != EINTR) {
            const int error = errno;
            lock.unlock(); // failing wakes this lane too
            give_up(lane_.fault(error, "send"));
            return std::unexpected{ending_.why()};
        }
        sent = answer < 0 ? 0 : static_cast<std::size_t>(answer);
        lane_.wire_bytes->fetch_add(sent, std::memory_order_relaxed);
    }
    if (sent < whole) {
        const std::size_t of_header = std::min(sent, header.size());
        const std::size_t of_message = sent - of_header;
        kept_.insert(kept_.end(), header.begin() + static_cast<std::ptrdiff_t>(of_header), header.end());
        kept_.insert(kept_.end(), message.begin() + static_cast<std::ptrdiff_t>(of_message), message.end());
        changed_.notify_all();
    }
    return {};
}

void ControlLane::flusher() {
    std::vector<std::byte> writing;
    std::unique_lock lock{mutex_};
    for (;;) {
        while (kept_.empty() && !ended_) {
            changed_.wait(lock);
        }
        if (ended_) {
            return;
        }
        writing.swap(kept_);
        flushing_ = true;
        lock.unlock();
        std::span<const std::byte> left{writing};
        while (!left.empty()) {
            const ssize_t answer = ::send(lane_.socket, left.data(), left.size(), MSG_NOSIGNAL);
            if (answer < 0 && errno != EINTR) {
                give_up(lane_.fault(errno, "send"));
                return;
            }
            const auto sent = answer < 0 ? 0 : static_cast<std::size_t>(answer);
            lane_.wire_bytes->fetch_add(sent, std::memory_order_relaxed);
            left = left.subspan(sent);
        }
        writing.clear();
        lock.lock();
        flushing_ = false;
        changed_.notify_all();
    }
}

bool ControlLane::flush(const Deadline& deadline) {
    std::unique_lock lock{mutex_};
    while (!ended_ && (flushing_ || !kept_.empty())) {
        if (!changed_.wait_until(lock, deadline)) {
            return false;
        }
    }
    return !ended_;
}

void ControlLane::drain() {
    constexpr int enough = 64; // a peer that goes on sending must not keep us
    for (int i = 0; i < enough && receive_now(lane_.socket, read_).bytes > 0; ++i) {
    }
}

void ControlLane::end() {
    const std::scoped_lock lock{mutex_};
    ended_ = true;
    changed_.notify_all();
}

Outcome<std::size_t> ControlLane::take_message(std::span<std::byte> buffer) {
    if (end_ - begin_ < control_header_bytes) {
        return std::size_t{0};
    }
    auto length = decode_control_header(std::span{read_}.subspan(begin_, control_header_bytes));
    if (!length) {
        give_up(lane_.fault(std::move(length.error())));
        return std::unexpected{ending_.why()};
    }
    if (end_ - begin_ - control_header_bytes < *length) {
        return std::size_t{0};
    }
    std::memcpy(buffer.data(), &read_[begin_ + control_header_bytes], *length);
    begin_ += control_header_bytes + *length;
    return std::size_t{*length};
}

Outcome<std::size_t> ControlLane::receive(std::span<std::byte> buffer, const Deadline& deadline) {
    for (;;) {
        if (ending_.over() && (ending_.why().error.code != ErrorCode::closed || peer_ended_)) {
            return std::unexpected{ending_.why()};
        }
        if (auto length = take_message(buffer); !length || *length > 0) {
            return length;
        }
        if (begin_ > 0) { // what is left is less than a message: there is always room for the rest of it
            std::memmove(read_.data(), &read_[begin_], end_ - begin_);
            end_ -= std::exchange(begin_, 0);
        }
        const Transfer got = receive_now(lane_.socket, std::span{read_}.subspan(end_));
        end_ += got.bytes;
        if (got.bytes > 0) {
            continue;
        }
        if (got.ended || got.error != 0) {
            peer_ended_ = true;
            give_up(lane_.fault(got.error, "receive"));
            return std::unexpected{ending_.why()};
        }
        if (!ending_.over()) {
            if (wait_for(lane_.socket, POLLIN, deadline, ending_.event()) == Wait::timed_out) {
                return std::size_t{0};
            }
            continue;
        }
        // Another lane has met the peer's end: its last messages may still be on their way here. Cancelling shuts the socket.
        const Deadline last{ending_.when() + last_words};
        if (wait_for(lane_.socket, POLLIN, deadline.or_sooner(last.at()), -1) == Wait::timed_out) {
            if (!last.passed()) {
                return std::size_t{0};
            }
            peer_ended_ = true;
        }
    }
}

} // namespace pageferry::tcp
