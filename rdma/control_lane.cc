#include "rdma/control_lane.h"

#include "transport/plugin/bytes.h"

#include <algorithm>
#include <cstring>

namespace pageferry::rdma {

namespace {
constexpr std::uint32_t magic = 0x4c525443;
constexpr std::uint64_t sent_mark = 1ULL << 32; // in wr_id: a send, from that slot; else a receive
constexpr std::uint64_t inline_mark = 1ULL << 33;
constexpr std::chrono::microseconds busy{250}; // an answer that comes at once finds the one who waits for it awake
} // namespace

ControlLane::ControlLane(LaneSet& set, const Ending& ending, Fd kick, Fail fail)
    : set_(set), lane_(*set.find(LaneKind::control, 0)), ending_(ending), fail_(std::move(fail)),
      pump_(set.control.queue.get(), set.control.channel.get(), ending, std::move(kick), busy,
            [this](const ibv_wc& completion) { handle(completion); }) {
    free_.set();
}

void ControlLane::handle(const ibv_wc& completion) {
    const bool was_sent = (completion.wr_id & sent_mark) != 0;
    if (was_sent) {
        --in_flight_;
        if ((completion.wr_id & inline_mark) == 0) {
            free_.set(static_cast<std::size_t>(completion.wr_id & 0xffff));
        }
    }
    if (completion.status != IBV_WC_SUCCESS) {
        fail_(fault_of(completion, lane_.name), is_consequence(completion.status));
    } else if (!was_sent) {
        arrived(static_cast<std::size_t>(completion.wr_id), completion.byte_len);
    }
}

void ControlLane::arrived(std::size_t slot, std::size_t bytes) {
    const std::byte* const at = set_.control_buffer.at(slot * control_slot_bytes);
    const std::size_t length = bytes >= control_header_bytes ? load<std::uint32_t>(at + 4) : 0;
    const bool sound = bytes >= control_header_bytes && load<std::uint32_t>(at) == magic &&
                       length == bytes - control_header_bytes && length <= PF_CONTROL_MAX;
    const std::uint32_t taken = sound ? load<std::uint32_t>(at + 8) : 0;
    if (!sound || taken - peer_taken_ > sent_ - peer_taken_ || (length > 0 && inbox_.size() >= credits)) {
        Error error =
            make_error(ErrorCode::protocol, "receive", lane_.name.title, "the peer sent what is no message of this protocol");
        error.peer = lane_.name.peer;
        fail_(Fault{.error = std::move(error), .lane = 0}, false);
        return;
    }
    peer_taken_ = taken;
    if (length > 0) {
        inbox_.push_back({.slot = slot, .length = length});
    } else if (auto posted = repost(slot); !posted) {
        fail_(std::move(posted.error()), false);
    }
}

Outcome<void> ControlLane::repost(std::size_t slot) {
    auto posted = set_.post_control_receive(slot);
    return posted ? Outcome<void>{} : failed(std::move(posted.error()), 0);
}

Outcome<void> ControlLane::post(std::span<const std::byte> message) {
    std::size_t slot = 0;
    while (!free_[slot]) {
        ++slot;
    }
    std::byte* const at = set_.control_buffer.at((control_slots + slot) * control_slot_bytes);
    store(at, magic);
    store(at + 4, static_cast<std::uint32_t>(message.size()));
    store(at + 8, taken_);
    store(at + 12, std::uint32_t{0});
    std::memcpy(at + control_header_bytes, message.data(), message.size());
    const std::size_t bytes = control_header_bytes + message.size();
    const bool in_request = bytes <= lane_.inline_bytes;
    ibv_sge piece{.addr = reinterpret_cast<std::uintptr_t>(at),
                  .length = static_cast<std::uint32_t>(bytes),
                  .lkey = set_.control_buffer.key()};
    ibv_send_wr request{};
    request.wr_id = sent_mark | (in_request ? inline_mark : 0) | slot;
    request.sg_list = &piece;
    request.num_sge = 1;
    request.opcode = IBV_WR_SEND;
    request.send_flags = in_request ? IBV_SEND_SIGNALED | IBV_SEND_INLINE : IBV_SEND_SIGNALED;
    ibv_send_wr* bad = nullptr;
    if (const int error = ibv_post_send(lane_.qp(), &request, &bad); error != 0) {
        Fault fault{.error = errno_error(error, "ibv_post_send", lane_.name.title + " (" + lane_.name.device + ")"), .lane = 0};
        fault.error.peer = lane_.name.peer;
        fail_(fault, false);
        return std::unexpected{std::move(fault)};
    }
    free_.set(slot, in_request);
    ++in_flight_;
    told_ = taken_;
    wire_bytes_.fetch_add(bytes, std::memory_order_relaxed);
    return {};
}

void ControlLane::give_credits() {
    if (taken_ - told_ >= credits / 2 && may_post() && !ending_.over()) {
        (void)post({}); // what goes wrong has ended the connection
    }
}

Fault ControlLane::over(const char* operation, const Deadline& /*deadline*/) const {
    if (ending_.over()) {
        return ending_.why();
    }
    Error error = make_error(ErrorCode::timed_out, operation, lane_.name.title, "the peer does not take messages");
    error.peer = lane_.name.peer;
    return Fault{.error = std::move(error), .lane = 0};
}

Outcome<void> ControlLane::send(std::span<const std::byte> message, const Deadline& deadline) {
    std::unique_lock lock{mutex_};
    if (!may_send()) { // the usual message needs no look at the queue
        if (!pump_.run(lock, deadline, [this] { return may_send(); })) {
            return std::unexpected{over("send", deadline)};
        }
    }
    if (ending_.over()) {
        return std::unexpected{ending_.why()};
    }
    ++sent_;
    return post(message);
}

Outcome<std::size_t> ControlLane::receive(std::span<std::byte> buffer, const Deadline& deadline) {
    std::unique_lock lock{mutex_};
    if (!pump_.run(lock, deadline, [this] { return !inbox_.empty(); })) {
        if (ending_.over()) {
            return std::unexpected{ending_.why()};
        }
        return std::size_t{0};
    }
    if (ending_.over() && ending_.why().error.code == ErrorCode::cancelled) {
        return std::unexpected{ending_.why()};
    }
    const Arrived first = inbox_.front();
    inbox_.pop_front();
    std::memcpy(buffer.data(), set_.control_buffer.at((first.slot * control_slot_bytes) + control_header_bytes), first.length);
    ++taken_;
    if (!ending_.over()) {
        if (auto posted = repost(first.slot); !posted) {
            fail_(std::move(posted.error()), false);
        }
        give_credits();
    }
    return first.length;
}

bool ControlLane::flush(const Deadline& deadline) {
    std::unique_lock lock{mutex_};
    return pump_.run(lock, deadline, [this] { return in_flight_ == 0; });
}

} // namespace pageferry::rdma
