// The pushes, or the pulls, of a connection from the moment they are taken until their completion is fetched, and how extents are
// cut into pieces for the lanes: whichever lane is free takes the next piece of the oldest extent, so lanes share the load by
// speed.
//
// All memory is taken when it is made. No input or output, no lock: the owner locks.
#pragma once

#include "tcp_fallback/wire.h"
#include "transport/abi/pageferry_transport.h"
#include "transport/plugin/ring.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace pageferry::tcp {

// A piece on its way: where it is in this side's memory, and the operation it is of.
struct Part {
    Piece piece;
    std::byte* address = nullptr;
    std::uint32_t slot = 0;
};

class OpQueue {
public:
    explicit OpQueue(std::size_t depth);

    [[nodiscard]] bool full() const { return free_.empty(); }
    [[nodiscard]] bool unused() const { return free_.size() == slots_.size(); } // and every completion was fetched
    // Not full. address: where the extent begins.
    void submit(const pf_extent& extent, std::byte* address);

    // The next piece, of at most limit bytes (> 0); nothing when all have been taken.
    std::optional<Part> take(std::uint32_t limit);
    [[nodiscard]] bool idle() const { return waiting_.empty(); }
    [[nodiscard]] std::uint64_t waiting_bytes() const { return waiting_bytes_; }

    // Operations are numbered from 1 in the order of submission.
    [[nodiscard]] std::uint64_t submitted() const { return submitted_; }
    // Every piece of the operations up to this one has been taken.
    [[nodiscard]] std::uint64_t taken_through();

    // A piece is done. The operation's cookie when that was its last.
    std::optional<std::uint64_t> finish(const Part& part);
    // The slot can be used again; after finish() gave the cookie, when the completion has been fetched.
    void release(std::uint32_t slot) { free_.push_back(slot); }

private:
    struct Op {
        std::byte* address = nullptr;
        std::uint64_t offset = 0;
        std::uint64_t length = 0;
        std::uint64_t cookie = 0;
        std::uint64_t number = 0;
        std::uint64_t taken = 0; // bytes
        std::uint64_t done = 0;  // bytes
        std::uint32_t block = 0;
    };
    std::vector<Op> slots_;
    std::vector<std::uint32_t> free_;
    Ring<std::uint32_t> waiting_; // slots with bytes not taken yet, oldest first
    std::uint64_t waiting_bytes_ = 0;
    std::uint64_t submitted_ = 0;
};

} // namespace pageferry::tcp
