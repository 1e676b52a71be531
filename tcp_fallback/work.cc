#include "tcp_fallback/work.h"

#include "transport/plugin/memory_table.h"

#include <algorithm>
#include <thread>
#include <utility>

namespace pageferry::tcp {

namespace {
constexpr std::chrono::microseconds urgent_busy{200}; // after a fault was asked for: somebody stands still until it is here
} // namespace

Work::Work(std::size_t bulk_lanes, std::size_t depth)
    : queues_{OpQueue{depth}, OpQueue{depth}, OpQueue{depth}}, finished_{2 * depth}, finished_urgent_{depth} {
    for (std::size_t i = 0; i < bulk_lanes + 1; ++i) {
        lanes_.push_back(std::make_unique<Lane>());
    }
}

std::size_t Work::submit(OpKind kind, const MemoryTable& table, std::span<const pf_extent> extents) {
    const std::uint32_t right = kind == OpKind::push ? PF_MEMORY_PUSH_SOURCE : PF_MEMORY_PULL_TARGET;
    const std::scoped_lock lock{mutex_};
    OpQueue& operations = queue(kind);
    std::size_t taken = 0;
    while (taken < extents.size() && !operations.full()) {
        const pf_extent& extent = extents[taken++];
        operations.submit(extent, *table.at(extent.block, extent.offset, extent.length, right));
    }
    if (taken > 0) {
        wake_for(kind);
    }
    return taken;
}

void Work::wake(Lane& lane) {
    if (lane.idle) {
        lane.wake.notify_one();
    }
}

void Work::wake_for(OpKind kind) {
    if (kind == OpKind::pull_urgent) {
        return;
    }
    // As many idle lanes as there are turns of work, so that a single page does not wake all.
    std::uint64_t turns = (queue(kind).waiting_bytes() + turn_bytes - 1) / turn_bytes;
    for (std::size_t i = 0; i + 1 < lanes_.size() && turns > 0; ++i) {
        Lane& lane = *lanes_[i];
        if (lane.idle && (kind == OpKind::push || may_ask(lane))) {
            lane.wake.notify_one();
            --turns;
        }
    }
}

Waited Work::poll(std::span<pf_completion> completions, std::size_t& count, const Deadline& deadline) {
    std::unique_lock lock{mutex_};
    while (!finished() && !ended_) {
        if (const Deadline awake = deadline.or_sooner(expected_until_); !awake.passed()) {
            look_for_news(lock, awake);
            continue;
        }
        sleeping_ = true;
        const bool in_time = done_.wait_until(lock, deadline);
        sleeping_ = false;
        if (!in_time && !finished() && !ended_) {
            return Waited::timed_out;
        }
    }
    if (ended_) {
        return Waited::ended;
    }
    for (count = 0; count < completions.size() && finished(); ++count) {
        const Finished next = finished_urgent_.empty() ? finished_.pop() : finished_urgent_.pop();
        completions[count] = next.completion;
        queue(next.kind).release(next.slot);
    }
    return Waited::done;
}

// A wake-up costs as much as the way there and back on a quick network: it happens meanwhile, and this waits out the rest.
void Work::look_for_news(std::unique_lock<std::mutex>& lock, const Deadline& until) {
    const std::uint64_t seen = news_.load(std::memory_order_relaxed);
    lock.unlock();
    while (news_.load(std::memory_order_relaxed) == seen && !until.passed()) {
        std::this_thread::yield(); // the one who is going to bring it may need this processor
    }
    lock.lock();
}

void Work::expect() {
    const std::scoped_lock lock{mutex_};
    if (!queue(OpKind::pull).unused()) {
        return;
    }
    expected_until_ = Clock::now() + urgent_busy;
    if (sleeping_) {
        done_.notify_one();
    }
}

Waited Work::fence(const Deadline& deadline) {
    std::unique_lock lock{mutex_};
    const std::uint64_t sequence = ++fence_wanted_;
    fence_after_ = queue(OpKind::push).submitted();
    for (std::size_t i = 0; i + 1 < lanes_.size(); ++i) {
        wake(*lanes_[i]);
    }
    const auto all_landed = [&] {
        return std::ranges::all_of(lanes_.begin(), lanes_.end() - 1,
                                   [&](const auto& lane) { return lane->fence_landed >= sequence; });
    };
    while (!ended_ && !all_landed()) {
        if (!landed_.wait_until(lock, deadline) && !ended_ && !all_landed()) {
            return Waited::timed_out;
        }
    }
    return ended_ ? Waited::ended : Waited::done;
}

void Work::complete(OpKind kind, std::uint32_t slot, std::uint64_t cookie) {
    auto& finished = kind == OpKind::pull_urgent ? finished_urgent_ : finished_;
    finished.push(Finished{.completion = {.cookie = cookie, .status = PF_OK, .reserved = 0}, .kind = kind, .slot = slot});
    news_.fetch_add(1, std::memory_order_relaxed);
    done_.notify_one();
}

bool Work::next(std::size_t lane, Turn& turn) {
    Lane& own = *lanes_[lane];
    std::unique_lock lock{mutex_};
    for (;;) {
        if (ended_) {
            return false;
        }
        if (!own.borrowed && (std::exchange(own.left_over, false) || fill(lane, turn))) {
            return true;
        }
        own.idle = true;
        own.wake.wait(lock);
        own.idle = false;
    }
}

bool Work::borrow(Turn& turn) {
    Lane& own = *lanes_.back();
    const std::scoped_lock lock{mutex_};
    if (ended_ || !own.idle || own.borrowed || own.left_over) {
        return false;
    }
    own.borrowed = fill(lanes_.size() - 1, turn);
    return own.borrowed;
}

bool Work::after_borrowed(Turn& turn, bool whole) {
    Lane& own = *lanes_.back();
    const std::scoped_lock lock{mutex_};
    if (whole && !ended_ && fill(lanes_.size() - 1, turn)) {
        return true;
    }
    own.borrowed = false;
    own.left_over = !whole;
    if (own.left_over || ended_) {
        own.wake.notify_one();
    }
    return false;
}

void Work::clear(Turn& turn) {
    turn.fenced.reset();
    turn.fence.reset();
    turn.requests.clear();
    turn.replies.clear();
    turn.data.clear();
}

void Work::fill_requests(std::size_t lane, Turn& turn) {
    Lane& own = *lanes_[lane];
    OpQueue& pulls = queue(pull_kind(lane));
    std::uint64_t bytes = 0;
    turn.first_request = own.first_asked + own.asked.size();
    while (turn.requests.size() < max_pieces && may_ask(own) && bytes < pull_turn_bytes) {
        const auto part = pulls.take(pull_turn_bytes);
        if (!part) {
            break;
        }
        turn.requests.push_back(*part);
        own.asked.push(*part);
        own.asked_bytes += part->piece.length;
        bytes += part->piece.length;
    }
}

bool Work::fill(std::size_t lane, Turn& turn) {
    Lane& own = *lanes_[lane];
    clear(turn);
    if (own.fenced_owed > own.fenced_said) {
        turn.fenced = own.fenced_said = own.fenced_owed;
    }
    fill_requests(lane, turn);
    turn.first_reply = own.first_owed;
    for (std::uint64_t bytes = 0; turn.replies.size() < max_pieces && bytes < pull_turn_bytes && !own.owed.empty();
         ++own.first_owed) {
        turn.replies.push_back(own.owed.pop());
        bytes += turn.replies.back().piece.length;
    }
    if (!is_urgent(lane)) {
        OpQueue& pushes = queue(OpKind::push);
        for (std::uint32_t bytes = 0; turn.data.size() < max_pieces && bytes < turn_bytes;) {
            const auto part = pushes.take(turn_bytes - bytes);
            if (!part) {
                break;
            }
            turn.data.push_back(*part);
            bytes += part->piece.length;
        }
        // Every covered push has been taken by a lane, and each lane says this after what it took.
        if (own.fence_sent < fence_wanted_ && pushes.taken_through() >= fence_after_) {
            turn.fence = own.fence_sent = fence_wanted_;
        }
    }
    return turn.fenced || turn.fence || !turn.requests.empty() || !turn.replies.empty() || !turn.data.empty();
}

void Work::sent(const Turn& turn) {
    if (turn.data.empty()) {
        return;
    }
    const std::scoped_lock lock{mutex_};
    for (const Part& part : turn.data) {
        bytes_pushed_ += part.piece.length;
        if (const auto cookie = queue(OpKind::push).finish(part)) {
            complete(OpKind::push, part.slot, *cookie);
        }
    }
    // A fence may wait for what another lane has just been the last to take.
    if (queue(OpKind::push).taken_through() >= fence_after_) {
        for (std::size_t i = 0; i + 1 < lanes_.size(); ++i) {
            if (lanes_[i]->fence_sent < fence_wanted_) {
                wake(*lanes_[i]);
            }
        }
    }
}

bool Work::owe_replies(std::size_t lane, std::uint64_t number, std::span<const Part> parts) {
    Lane& own = *lanes_[lane];
    const std::scoped_lock lock{mutex_};
    if (number != own.first_owed + own.owed.size() || own.owed.size() + parts.size() > max_requests) {
        return false;
    }
    for (const Part& part : parts) {
        own.owed.push(part);
    }
    if (!is_urgent(lane)) {
        wake(own);
    }
    return true;
}

void Work::owe_fenced(std::size_t lane, std::uint64_t sequence) {
    Lane& own = *lanes_[lane];
    const std::scoped_lock lock{mutex_};
    own.fenced_owed = std::max(own.fenced_owed, sequence);
    wake(own);
}

bool Work::claim(std::size_t lane, std::uint64_t number, std::span<Part> parts) {
    Lane& own = *lanes_[lane];
    const std::scoped_lock lock{mutex_};
    if (number != own.first_asked || parts.size() > own.asked.size()) {
        return false;
    }
    for (std::size_t i = 0; i < parts.size(); ++i) {
        if (parts[i].piece != own.asked.at(i).piece) {
            return false;
        }
        parts[i] = own.asked.at(i);
    }
    return true;
}

void Work::landed(std::size_t lane, std::size_t count) {
    Lane& own = *lanes_[lane];
    const OpKind kind = pull_kind(lane);
    const std::scoped_lock lock{mutex_};
    for (std::size_t i = 0; i < count; ++i, ++own.first_asked) {
        const Part part = own.asked.pop();
        own.asked_bytes -= part.piece.length;
        bytes_pulled_ += part.piece.length;
        if (const auto cookie = queue(kind).finish(part)) {
            complete(kind, part.slot, *cookie);
        }
    }
    if (!queue(kind).idle()) {
        wake(own);
    }
}

bool Work::fenced(std::size_t lane, std::uint64_t sequence) {
    Lane& own = *lanes_[lane];
    const std::scoped_lock lock{mutex_};
    if (sequence > own.fence_sent || sequence < own.fence_landed) {
        return false;
    }
    own.fence_landed = sequence;
    landed_.notify_all();
    return true;
}

void Work::end() {
    const std::scoped_lock lock{mutex_};
    ended_ = true;
    news_.fetch_add(1, std::memory_order_relaxed);
    done_.notify_all();
    landed_.notify_all();
    for (const auto& lane : lanes_) {
        lane->wake.notify_all();
    }
}

std::uint64_t Work::bytes_pushed() const {
    const std::scoped_lock lock{mutex_};
    return bytes_pushed_;
}

std::uint64_t Work::bytes_pulled() const {
    const std::scoped_lock lock{mutex_};
    return bytes_pulled_;
}

} // namespace pageferry::tcp
