// The door between what comes from the network and this side's memory. Receivers pass it for each system call that may write
// memory; revoke() shuts it for ever to the peer's pushes and waits until none is inside. Nobody blocks on the network inside, so
// that is soon. Answers to this side's own pulls go on.
//
// Threads: any.
#pragma once

#include "tcp_fallback/kit.h"
#include "transport/plugin/memory_table.h"
#include "transport/plugin/threads.h"

#include <atomic>
#include <memory>
#include <mutex>

namespace pageferry::tcp {

class MemoryGate {
public:
    // The table, once. false: there was one already.
    bool publish(MemoryTable table);
    // The table, or nullptr while there is none.
    [[nodiscard]] const MemoryTable* table() const { return shown_.load(std::memory_order_acquire); }
    // Waits for it; nullptr when end() came first.
    const MemoryTable* wait_for_table();

    enum class With { push, answer }; // of the peer's; to a pull of ours
    // false: revoked, or the connection is over; do not write, do not leave().
    bool enter(With what);
    void leave(With what);
    // true: no push is inside, none will be again. false: the deadline passed first; it is shut all the same, call again.
    bool revoke(const Deadline& deadline);
    [[nodiscard]] bool revoked() const { return revoked_.load(); }

    // The connection is over: waiters go on, nobody enters. (A socket that was shut still gives what it holds.)
    void end();

private:
    std::mutex mutex_;
    Condition changed_;
    std::unique_ptr<const MemoryTable> table_;
    std::atomic<const MemoryTable*> shown_{nullptr};
    std::atomic<bool> revoked_{false};
    bool ended_ = false;
    int inside_ = 0; // pushes
};

} // namespace pageferry::tcp
