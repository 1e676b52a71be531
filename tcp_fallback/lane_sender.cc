#include "tcp_fallback/lane_sender.h"

#include "base/scheduling.h"
#include "tcp_fallback/wire.h"

#include <sys/socket.h>

#include <cerrno>

namespace pageferry::tcp {

namespace {

// fenced, pull, pulled, data, fence: the five frames a turn can hold.
constexpr std::size_t headers_bytes = 5 * frame_bytes + 3 * std::size_t{max_pieces - 1} * piece_bytes;
constexpr std::size_t vectors_max = 5 + 2 * std::size_t{max_pieces};
static_assert(vectors_max <= 1024, "sendmsg takes no more than IOV_MAX");

} // namespace

LaneSender::LaneSender(const Lane& lane, Work& work) : lane_(lane), work_(work), headers_(headers_bytes) {
    vectors_.reserve(vectors_max);
    turn_.requests.reserve(max_pieces);
    turn_.replies.reserve(max_pieces);
    turn_.data.reserve(max_pieces);
}

void LaneSender::run() {
    if (lane_.urgent) {
        ask_for_short_turns();
    }
    while (work_.next(lane_.index, turn_)) {
        if (left_.empty()) { // else it was left to this thread
            compose(turn_);
        }
        if (!send(0)) {
            return;
        }
        work_.sent(turn_);
    }
}

void LaneSender::send_now() {
    for (bool more = work_.borrow(turn_); more;) {
        compose(turn_);
        const bool going = send(MSG_DONTWAIT);
        more = work_.after_borrowed(turn_, going && left_.empty());
    }
}

void LaneSender::compose(const Turn& turn) {
    used_ = 0;
    vectors_.clear();
    if (turn.fenced) {
        add_frame(FrameType::fenced, *turn.fenced, {});
    }
    if (!turn.requests.empty()) {
        add_frame(FrameType::pull, turn.first_request, turn.requests);
    }
    if (!turn.replies.empty()) {
        add_frame(FrameType::pulled, turn.first_reply, turn.replies);
    }
    if (!turn.data.empty()) {
        add_frame(FrameType::data, 0, turn.data);
    }
    if (turn.fence) {
        add_frame(FrameType::fence, *turn.fence, {});
    }
    left_ = vectors_;
}

void LaneSender::add_frame(FrameType type, std::uint64_t number, std::span<const Part> parts) {
    const std::size_t begin = used_;
    encode_frame(Frame{.type = type,
                       .count = static_cast<std::uint32_t>(parts.size()),
                       .number = number,
                       .first = parts.empty() ? Piece{} : parts.front().piece},
                 std::span{headers_}.subspan(used_, frame_bytes));
    used_ += frame_bytes;
    for (std::size_t i = 1; i < parts.size(); ++i) {
        encode_piece(parts[i].piece, std::span{headers_}.subspan(used_, piece_bytes));
        used_ += piece_bytes;
    }
    vectors_.push_back(iovec{.iov_base = &headers_[begin], .iov_len = used_ - begin});
    if (type == FrameType::data || type == FrameType::pulled) {
        for (const Part& part : parts) {
            vectors_.push_back(iovec{.iov_base = part.address, .iov_len = part.piece.length});
        }
    }
}

bool LaneSender::send(int flags) {
    std::span<iovec>& left = left_;
    while (!left.empty()) {
        msghdr message{};
        message.msg_iov = left.data();
        message.msg_iovlen = left.size();
        const ssize_t answer = ::sendmsg(lane_.socket, &message, MSG_NOSIGNAL | flags);
        if (answer < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno == EAGAIN && flags != 0) {
                return true;
            }
            lane_.fail(lane_.fault(errno, "send"));
            return false;
        }
        auto sent = static_cast<std::size_t>(answer);
        lane_.wire_bytes->fetch_add(sent, std::memory_order_relaxed);
        while (!left.empty() && sent >= left.front().iov_len) {
            sent -= left.front().iov_len;
            left = left.subspan(1);
        }
        if (sent > 0) {
            left.front().iov_base = static_cast<std::byte*>(left.front().iov_base) + sent;
            left.front().iov_len -= sent;
        }
    }
    return true;
}

} // namespace pageferry::tcp
