#include "tcp_fallback/op_queue.h"

#include <algorithm>

namespace pageferry::tcp {

OpQueue::OpQueue(std::size_t depth) : slots_(depth), waiting_(depth) {
    free_.reserve(depth);
    for (std::size_t i = depth; i > 0; --i) {
        free_.push_back(static_cast<std::uint32_t>(i - 1));
    }
}

void OpQueue::submit(const pf_extent& extent, std::byte* address) {
    const std::uint32_t slot = free_.back();
    free_.pop_back();
    slots_[slot] = Op{.address = address,
                      .offset = extent.offset,
                      .length = extent.length,
                      .cookie = extent.cookie,
                      .number = ++submitted_,
                      .block = extent.block};
    waiting_.push(slot);
    waiting_bytes_ += extent.length;
}

std::optional<Part> OpQueue::take(std::uint32_t limit) {
    if (waiting_.empty()) {
        return std::nullopt;
    }
    const std::uint32_t slot = waiting_.front();
    Op& op = slots_[slot];
    const auto length = static_cast<std::uint32_t>(std::min<std::uint64_t>(limit, op.length - op.taken));
    const Part part{.piece = {.offset = op.offset + op.taken, .block = op.block, .length = length},
                    .address = op.address + op.taken,
                    .slot = slot};
    op.taken += length;
    waiting_bytes_ -= length;
    if (op.taken == op.length) {
        (void)waiting_.pop();
    }
    return part;
}

std::uint64_t OpQueue::taken_through() {
    return waiting_.empty() ? submitted_ : slots_[waiting_.front()].number - 1;
}

std::optional<std::uint64_t> OpQueue::finish(const Part& part) {
    Op& op = slots_[part.slot];
    op.done += part.piece.length;
    return op.done < op.length ? std::nullopt : std::optional{op.cookie};
}

} // namespace pageferry::tcp
