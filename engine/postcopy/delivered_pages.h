// What precopy has delivered of the source's RAM, as the destination is to hear it: which of its pages are as they are at the
// source, part after part. All others it pulls.
//
// The last look at what the guest, and the saving of its device state, have written takes time in proportion to RAM. The
// destination can run without its result: until it is told of a page it takes it for missing. So only a part of the look is taken
// while the guest stands still, and the rest when it runs at the destination.
//
// Threads: the engine's.
#pragma once

#include "base/error.h"
#include "engine/peer.h"
#include "engine/pending_pages.h"
#include "memory/dirty_tracker.h"
#include "memory/ram_block.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pageferry::engine {

struct Telling {
    // What the destination touches while it loads device state is then mostly known to be there, and the time without a running
    // guest hardly longer.
    std::chrono::microseconds while_stopped{1000};
    std::uint64_t part_bytes = 256 << 20; // looked at together, where pages are not larger
};

class DeliveredPages {
public:
    // All outlive it. pending: what was known to be stale or not sent before; the rest of that is added. The guest stands still.
    DeliveredPages(std::span<const memory::RamBlock> blocks, memory::DirtyTracker& tracker, PendingPages& pending, Peer& peer,
                   Telling telling)
        : blocks_(blocks), tracker_(tracker), pending_(pending), peer_(peer), telling_(telling) {}

    [[nodiscard]] bool all_told() const { return block_ == blocks_.size(); }
    // Tells of the next part; there is one.
    Result<void> tell_part();
    // As much as there is time for while the guest runs nowhere.
    Result<void> tell_while_stopped();

private:
    Result<void> send(std::uint64_t first, std::uint64_t pages);

    std::span<const memory::RamBlock> blocks_;
    memory::DirtyTracker& tracker_;
    PendingPages& pending_;
    Peer& peer_;
    Telling telling_;
    std::size_t block_ = 0;
    std::uint64_t page_ = 0;
    std::vector<memory::BlockExtent> dirty_; // of one part; kept for its memory
};

} // namespace pageferry::engine
