#include "engine/pusher.h"

#include <algorithm>
#include <numeric>

namespace pageferry::engine {

namespace {
// How long one wait for completions lasts before the pacer is asked again. The transport's own deadline finds a dead peer.
constexpr std::chrono::milliseconds completion_wait{100};
constexpr std::chrono::milliseconds watched_wait{2}; // the same, while something else is waited for too
} // namespace

Pusher::Pusher(transport::Connection& connection, Progress& progress, const Limits& limits)
    : connection_(connection), progress_(progress), limits_(limits), free_slots_(in_flight), rate_(progress.bandwidth) {
    // Taken from the end: the first slot first.
    std::iota(free_slots_.rbegin(), free_slots_.rend(), 0U); // NOLINT(modernize-use-ranges): GCC 12 has no std::ranges::iota
}

Result<void> Pusher::push_all(PendingPages& pending, bool paced, const std::function<bool()>& until) {
    for (bool enough = false; (!pending.empty() && !enough) || batch_size_ != 0 || free_slots_.size() != in_flight;) {
        enough = enough || (until && until());
        Result<void> done;
        if (!enough) {
            done = fill_batch(pending, paced, until);
        }
        if (done) {
            done = post_batch();
        }
        if (!done) {
            put_back(pending);
            return done;
        }
    }
    return {};
}

Result<void> Pusher::fill_batch(PendingPages& pending, bool paced, const std::function<bool()>& until) {
    while (batch_size_ < batch && !free_slots_.empty() && !pending.empty()) {
        const std::uint64_t rate = paced ? limits_.max_bandwidth.load(std::memory_order_relaxed) : 0;
        const std::uint64_t allowed = pacer_.allow(std::min(extent_bytes, pending.bytes()), rate, Pacer::Clock::now());
        if (allowed == 0) {
            // Completions are collected while the pacer holds us back; poll() is a wait that cancel() ends.
            if (batch_size_ != 0 || (until && until())) {
                return {};
            }
            const auto wait = std::chrono::ceil<std::chrono::milliseconds>(pacer_.wait(rate));
            if (auto done = collect(std::min(wait, until ? watched_wait : completion_wait)); !done) {
                return done;
            }
            continue;
        }
        const auto extent = pending.take(allowed);
        if (!extent) {
            break;
        }
        if (extent->extent.length < allowed) {
            pacer_.give_back(allowed - extent->extent.length);
        }
        const std::uint32_t slot = free_slots_.back();
        free_slots_.pop_back();
        slots_[slot] = *extent;
        batch_[batch_size_++] = pf_extent{.block = static_cast<std::uint32_t>(extent->block),
                                          .reserved = 0,
                                          .offset = extent->extent.offset,
                                          .length = extent->extent.length,
                                          .cookie = slot};
    }
    return {};
}

Result<void> Pusher::post_batch() {
    if (batch_size_ == 0 && free_slots_.size() == in_flight) {
        return {}; // cut short with nothing under way: there is nothing to wait for
    }
    std::size_t taken = 0;
    if (batch_size_ != 0) {
        const auto accepted = connection_.push(std::span{batch_}.first(batch_size_));
        if (!accepted) {
            return std::unexpected(accepted.error());
        }
        taken = *accepted;
        const auto first = batch_.begin();
        std::move(first + static_cast<std::ptrdiff_t>(taken), first + static_cast<std::ptrdiff_t>(batch_size_), first);
        batch_size_ -= taken;
    }
    // Queue full, or nothing more to post: wait for completions; else only see what is there.
    return collect(taken == 0 ? completion_wait : std::chrono::milliseconds{0});
}

Result<void> Pusher::collect(std::chrono::milliseconds wait) {
    std::array<pf_completion, 64> completions;
    if (free_slots_.size() + batch_size_ == in_flight && wait.count() == 0) {
        return {};
    }
    const auto count = connection_.poll(completions, wait);
    if (!count) {
        return std::unexpected(count.error());
    }
    std::uint64_t bytes = 0;
    for (const auto& completion : std::span{completions}.first(*count)) {
        if (completion.cookie >= in_flight || completion.status != PF_OK) {
            return std::unexpected(make_error(ErrorCode::protocol, "push", "extent " + std::to_string(completion.cookie),
                                              "the transport completed it with status " + std::to_string(completion.status)));
        }
        bytes += slots_[completion.cookie].extent.length;
        free_slots_.push_back(static_cast<std::uint32_t>(completion.cookie));
    }
    account(bytes);
    return {};
}

void Pusher::put_back(PendingPages& pending) {
    std::array<bool, in_flight> is_free{};
    for (const auto slot : free_slots_) {
        is_free[slot] = true;
    }
    for (std::uint32_t slot = 0; slot < in_flight; ++slot) {
        if (!is_free[slot]) {
            pending.add(slots_[slot]);
            free_slots_.push_back(slot);
        }
    }
    batch_size_ = 0;
}

void Pusher::account(std::uint64_t bytes) {
    if (bytes == 0) {
        return;
    }
    bytes_pushed_ += bytes;
    progress_.ram_transferred.fetch_add(bytes, std::memory_order_relaxed);
    const std::uint64_t remaining = progress_.ram_remaining.load(std::memory_order_relaxed);
    progress_.ram_remaining.store(remaining > bytes ? remaining - bytes : 0, std::memory_order_relaxed);
    rate_.add(bytes, RateWindow::Clock::now());
}

} // namespace pageferry::engine
