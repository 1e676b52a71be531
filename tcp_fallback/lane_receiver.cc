#include "tcp_fallback/lane_receiver.h"

#include "base/scheduling.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace pageferry::tcp {

LaneReceiver::LaneReceiver(const Lane& lane, Work& work, MemoryGate& gate, LaneSender& sender)
    : lane_(lane), work_(work), gate_(gate), sender_(sender), raw_pieces_(std::size_t{max_pieces - 1} * piece_bytes) {
    parts_.reserve(max_pieces);
    vectors_.reserve(std::size_t{max_pieces} + 1);
}

void LaneReceiver::run() {
    if (lane_.urgent) {
        ask_for_short_turns();
    }
    while (take_frame()) {
    }
}

bool LaneReceiver::give_up(Fault fault) {
    lane_.fail(std::move(fault));
    return false;
}

bool LaneReceiver::broken(std::string reason) {
    return give_up(lane_.fault(make_error(ErrorCode::protocol, "receive", {}, std::move(reason))));
}

bool LaneReceiver::read(std::span<std::byte> into) {
    while (!into.empty()) {
        const ssize_t got = ::recv(lane_.socket, into.data(), into.size(), 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return give_up(lane_.fault(got == 0 ? 0 : errno, "receive"));
        }
        into = into.subspan(static_cast<std::size_t>(got));
    }
    return true;
}

bool LaneReceiver::take_frame() {
    const std::size_t have = std::exchange(have_, 0);
    if (!read(std::span{header_}.subspan(have))) {
        return false;
    }
    auto frame = decode_frame(header_);
    if (!frame) {
        return give_up(lane_.fault(std::move(frame.error())));
    }
    return handle(*frame);
}

bool LaneReceiver::handle(const Frame& frame) {
    if (lane_.urgent && frame.type != FrameType::pull && frame.type != FrameType::pulled) {
        return broken("a frame that does not belong on this lane");
    }
    switch (frame.type) {
    case FrameType::data: return read_pieces(frame) && take_data();
    case FrameType::pull: return read_pieces(frame) && take_requests(frame);
    case FrameType::pulled: return read_pieces(frame) && take_answers(frame);
    case FrameType::fence: work_.owe_fenced(lane_.index, frame.number); return true;
    case FrameType::fenced: return work_.fenced(lane_.index, frame.number) || broken("an answer to a fence that was not sent");
    }
    return broken("an unknown frame"); // decode_frame lets none through
}

bool LaneReceiver::read_pieces(const Frame& frame) {
    const auto rest = std::span{raw_pieces_}.first((frame.count - 1) * piece_bytes);
    if (!read(rest)) {
        return false;
    }
    parts_.clear();
    parts_.push_back(Part{.piece = frame.first});
    for (std::size_t at = 0; at < rest.size(); at += piece_bytes) {
        auto piece = decode_piece(rest.subspan(at, piece_bytes));
        if (!piece) {
            return give_up(lane_.fault(std::move(piece.error())));
        }
        parts_.push_back(Part{.piece = *piece});
    }
    return true;
}

bool LaneReceiver::locate(std::uint32_t right) {
    // A peer may be faster than this side's add_memory(): its pages wait in the socket.
    const MemoryTable* table = gate_.wait_for_table();
    if (table == nullptr) {
        return false;
    }
    for (Part& part : parts_) {
        auto address = table->at(part.piece.block, part.piece.offset, part.piece.length, right);
        if (!address) {
            address.error().operation = right == PF_MEMORY_PUSH_TARGET ? "receive a push" : "receive a pull";
            return give_up(lane_.fault(std::move(address.error())));
        }
        part.address = *address;
    }
    return true;
}

bool LaneReceiver::take_data() {
    std::size_t left = 0;
    if (!locate(PF_MEMORY_PUSH_TARGET) || !land(MemoryGate::With::push, left)) {
        return false;
    }
    if (left > 0) {
        // Dropping it in silence would let a later fence() tell the peer that it is here.
        return give_up(lane_.fault(
            make_error(ErrorCode::state, "receive a push", {}, "the peer pushed after this side revoked its memory")));
    }
    return true;
}

bool LaneReceiver::take_requests(const Frame& frame) {
    if (gate_.revoked()) {
        return give_up(lane_.fault(
            make_error(ErrorCode::state, "receive a pull", {}, "the peer pulled after this side revoked its memory")));
    }
    if (!locate(PF_MEMORY_PULL_SOURCE)) {
        return false;
    }
    if (!work_.owe_replies(lane_.index, frame.number, parts_)) {
        return broken("pull requests out of order, or more than may be unanswered");
    }
    if (lane_.urgent) {
        sender_.send_now();
    }
    return true;
}

bool LaneReceiver::take_answers(const Frame& frame) {
    if (!work_.claim(lane_.index, frame.number, parts_)) {
        return broken("an answer to a pull that was not asked");
    }
    std::size_t left = 0;
    if (!land(MemoryGate::With::answer, left) || left > 0) { // left: the connection is over
        return false;
    }
    work_.landed(lane_.index, parts_.size());
    return true;
}

bool LaneReceiver::wait_for_bytes() {
    pollfd watched{.fd = lane_.socket, .events = POLLIN, .revents = 0};
    // Shutdown of the socket, by either side, ends the wait; nothing else needs watching.
    while (::poll(&watched, 1, -1) < 0) {
        if (errno != EINTR && errno != EAGAIN && errno != ENOMEM) {
            return give_up(lane_.fault(errno, "poll"));
        }
    }
    return true;
}

bool LaneReceiver::land(MemoryGate::With what, std::size_t& left) {
    vectors_.clear();
    for (const Part& part : parts_) {
        left += part.piece.length;
        vectors_.push_back(iovec{.iov_base = part.address, .iov_len = part.piece.length});
    }
    vectors_.push_back(iovec{.iov_base = header_.data(), .iov_len = header_.size()});
    std::span<iovec> vectors{vectors_};
    while (left > 0 && gate_.enter(what)) {
        msghdr message{};
        message.msg_iov = vectors.data();
        message.msg_iovlen = vectors.size();
        // Never waits while it is inside the gate, so that revoke_memory() does not depend on the peer.
        const ssize_t answer = ::recvmsg(lane_.socket, &message, MSG_DONTWAIT);
        const int error = errno;
        gate_.leave(what);
        if (answer == 0 || (answer < 0 && error != EAGAIN && error != EINTR)) {
            return give_up(lane_.fault(answer == 0 ? 0 : error, "receive pages"));
        }
        auto got = answer < 0 ? 0 : static_cast<std::size_t>(answer);
        if (got >= left) {
            have_ = got - left;
            left = 0;
            break;
        }
        left -= got;
        while (got >= vectors.front().iov_len) {
            got -= vectors.front().iov_len;
            vectors = vectors.subspan(1);
        }
        vectors.front().iov_base = static_cast<std::byte*>(vectors.front().iov_base) + got;
        vectors.front().iov_len -= got;
        if (!wait_for_bytes()) {
            return false;
        }
    }
    return true;
}

} // namespace pageferry::tcp
