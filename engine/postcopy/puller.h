// The pulls of one connection: pages that a fault waits for on the urgent lane, all others in the background on the bulk lanes.
//
// A page is claimed before it is pulled, and never pulled twice on one connection: a second copy could land on what the guest has
// written since. When its data is there it is marked received, then mapped for the guest, in that order. What was under way when
// the connection broke is not marked, so the next connection's puller pulls it again.
//
// In the background pages are taken from behind the latest fault on, then once around; only those of which it is known whether
// precopy has delivered them (engine/postcopy/delivered_pages.h). As much is under way as the path needs to
// be full, for a page that is wanted just then has to wait for it: PullWindow.
//
// Threads: its own ("pf-pulls") from the constructor on: background pulls, and all completions. request() and post_requests() by
// the fault server's. The rest by any. The connection outlives the puller, and is over or cancelled before the puller goes.
#pragma once

#include "base/error.h"
#include "engine/pacer.h"
#include "engine/postcopy/pull_target.h"
#include "engine/postcopy/pull_window.h"
#include "engine/rate_window.h"
#include "memory/bitmap.h"
#include "transport/connection.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

namespace pageferry::engine {

class Puller {
public:
    static constexpr std::size_t in_flight = 256; // background pulls at once, few of them where pages lack in long runs
    static constexpr std::size_t batch = 16;      // pulls in one call

    // numbers: the connection's number of each block. known: as know() tells it. limit: as limit() sets it, from the first pull
    // on. ended: called on the puller's thread when it has ended, with everything received or with an error; and when requests
    // that found the queue full should be made again: see retry().
    Puller(PullTarget target, transport::Connection& connection, std::vector<std::uint32_t> numbers,
           std::span<const std::uint64_t> known, std::uint64_t limit, std::function<void()> ended, std::function<void()> retry);
    ~Puller();
    Puller(const Puller&) = delete;
    Puller& operator=(const Puller&) = delete;

    // A page that is missing and that somebody waits for; it goes out with the next post_requests(), unless it is under way.
    void request(std::size_t block, std::uint64_t page);
    void post_requests();
    // Background pulls go on from here.
    void go_on_from(std::size_t block, std::uint64_t page) { hint_.store(cookie_of(block, page), std::memory_order_relaxed); }

    // Of these pages of 64 (bit N is page 64 * word + N) those that are not claimed, now claimed: they are not pulled.
    std::uint64_t claim_in_word(std::size_t block, std::size_t word, std::uint64_t bits) {
        return claimed_[block].set_in_word(word, bits);
    }
    // So many pages of the block from its beginning are received, or to be pulled.
    void know(std::size_t block, std::uint64_t pages);

    // Bytes per second of background pulls, as the source says; 0: none.
    void limit(std::uint64_t bytes_per_second) { limit_.store(bytes_per_second, std::memory_order_relaxed); }

    [[nodiscard]] std::optional<Error> error() const;

private:
    struct Slot {
        std::size_t block = 0;
        memory::PageRun run;
        std::chrono::steady_clock::time_point asked;
    };
    static constexpr std::uint64_t no_hint = ~std::uint64_t{0};
    static std::uint64_t cookie_of(std::size_t block, std::uint64_t page) { return std::uint64_t{block} << 48U | page; }

    void run();
    Result<bool> fill(); // whether the pacer holds background pulls back
    Result<void> post();
    Result<void> collect(std::chrono::milliseconds wait);
    Result<void> arrived(std::size_t block, memory::PageRun run);
    bool take(std::uint64_t bytes, Slot& slot);
    std::optional<memory::PageRun> claim(std::size_t block, std::uint64_t from, std::uint64_t most);
    [[nodiscard]] std::uint64_t rate_limit() const;
    [[nodiscard]] pf_extent extent_of(std::size_t block, memory::PageRun run, std::uint64_t cookie) const;
    void fail(Error error);

    PullTarget target_;
    transport::Connection& connection_;
    std::vector<std::uint32_t> numbers_;
    std::function<void()> ended_;
    std::function<void()> retry_;
    std::vector<memory::Bitmap> claimed_;           // by block
    std::vector<std::atomic<std::uint64_t>> known_; // pages, by block
    std::atomic<std::size_t> unknown_{0};           // blocks of which not all is known
    std::atomic<std::uint64_t> hint_{no_hint};
    std::atomic<std::uint64_t> limit_{0};
    std::atomic<std::chrono::steady_clock::time_point> last_fault_; // asked for
    std::atomic<bool> full_{false};                                 // a request found the queue full
    std::atomic<bool> all_taken_{false};                            // nothing unclaimed was left at the last look
    std::atomic<bool> stop_{false};
    // of the fault server's thread
    std::array<pf_extent, batch> requests_{};
    std::array<Slot, batch> requested_{};
    std::size_t request_count_ = 0;
    // of the puller's thread
    std::array<Slot, in_flight> slots_{}; // by cookie
    std::vector<std::uint32_t> free_slots_;
    std::array<pf_extent, batch> batch_{};
    std::size_t batch_size_ = 0;
    std::uint64_t bytes_under_way_ = 0;
    PullWindow window_;
    std::size_t at_block_ = 0;
    std::uint64_t at_page_ = 0;
    Pacer pacer_;
    RateWindow rate_;
    mutable std::mutex mutex_; // of error_
    std::optional<Error> error_;
    std::thread thread_;
};

} // namespace pageferry::engine
