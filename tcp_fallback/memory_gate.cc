#include "tcp_fallback/memory_gate.h"

namespace pageferry::tcp {

bool MemoryGate::publish(MemoryTable table) {
    const std::scoped_lock lock{mutex_};
    if (table_) {
        return false;
    }
    table_ = std::make_unique<const MemoryTable>(std::move(table));
    shown_.store(table_.get(), std::memory_order_release);
    changed_.notify_all();
    return true;
}

const MemoryTable* MemoryGate::wait_for_table() {
    if (const MemoryTable* table = shown_.load(std::memory_order_acquire)) {
        return table;
    }
    std::unique_lock lock{mutex_};
    while (!table_ && !ended_) {
        changed_.wait(lock);
    }
    return table_.get();
}

bool MemoryGate::enter(With what) {
    const std::scoped_lock lock{mutex_};
    if (ended_ || (what == With::push && revoked_)) {
        return false;
    }
    inside_ += what == With::push ? 1 : 0;
    return true;
}

void MemoryGate::leave(With what) {
    if (what == With::answer) {
        return;
    }
    const std::scoped_lock lock{mutex_};
    if (--inside_ == 0 && revoked_) {
        changed_.notify_all();
    }
}

bool MemoryGate::revoke(const Deadline& deadline) {
    std::unique_lock lock{mutex_};
    revoked_ = true;
    while (inside_ > 0) {
        if (!changed_.wait_until(lock, deadline) && inside_ > 0) {
            return false;
        }
    }
    return true;
}

void MemoryGate::end() {
    const std::scoped_lock lock{mutex_};
    ended_ = true;
    changed_.notify_all();
}

} // namespace pageferry::tcp
