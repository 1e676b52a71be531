// Whether somebody has punched holes into guest RAM: for a transport that pins memory, pages it has registered may then no longer
// be the guest's (docs/decisions/discards.md).
//
// Threads: one.
#pragma once

#include <atomic>
#include <cstdint>

namespace pageferry::engine {

// Counted by the hypervisor, in memory that is only read here: `begun` before the first page of a discard goes, `ended` after the
// last.
struct DiscardCounters {
    std::atomic<std::uint64_t> begun{0};
    std::atomic<std::uint64_t> ended{0};
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

class DiscardWatch {
public:
    explicit DiscardWatch(const DiscardCounters& counters) : counters_(&counters), noted_(look()) {}

    // Whether a page may have been discarded since the last call, or since this was made: at that moment, between, or right now.
    // For a page that was found dirty by then the answer covers the discard that came before its writing.
    bool anything() {
        const Seen now = look();
        const Seen before = noted_;
        noted_ = now;
        return now.begun != now.ended || now.begun != before.begun || now.ended != before.ended;
    }

private:
    struct Seen {
        std::uint64_t ended = 0;
        std::uint64_t begun = 0;
    };
    // In this order: where both are the same number, nothing was under way when `ended` was read.
    [[nodiscard]] Seen look() const {
        Seen seen;
        seen.ended = counters_->ended.load(std::memory_order_seq_cst);
        seen.begun = counters_->begun.load(std::memory_order_seq_cst);
        return seen;
    }

    const DiscardCounters* counters_;
    Seen noted_;
};

} // namespace pageferry::engine
