#include "engine/postcopy/puller.h"

#include <pthread.h>

#include <algorithm>
#include <numeric>
#include <utility>

namespace pageferry::engine {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {
constexpr std::uint64_t urgent_bit = std::uint64_t{1} << 63U;
constexpr std::uint64_t page_mask = (std::uint64_t{1} << 48U) - 1;
// One wait for completions. The transport's own deadline finds a dead peer, and the connection's cancel() ends it.
constexpr milliseconds completion_wait{100};
// And while the source still tells what it has delivered, for then there may be something to do that no completion tells of.
constexpr milliseconds telling_wait{1};
} // namespace

Puller::Puller(PullTarget target, transport::Connection& connection, std::vector<std::uint32_t> numbers,
               std::span<const std::uint64_t> known, std::uint64_t limit, std::function<void()> ended,
               std::function<void()> retry)
    : target_(target), connection_(connection), numbers_(std::move(numbers)), ended_(std::move(ended)), retry_(std::move(retry)),
      known_(known.size()), limit_(limit), free_slots_(in_flight), rate_(target.page.progress.bandwidth) {
    for (std::size_t block = 0; block < known.size(); ++block) {
        const std::uint64_t pages = target_.blocks[block].pages();
        claimed_.emplace_back(pages);
        known_[block] = known[block];
        unknown_ += known[block] < pages ? 1 : 0;
    }
    std::iota(free_slots_.rbegin(), free_slots_.rend(), 0U); // NOLINT(modernize-use-ranges): GCC 12 has no std::ranges::iota
    target_.page.progress.bandwidth = 0;
    thread_ = std::thread{[this] { run(); }};
    pthread_setname_np(thread_.native_handle(), "pf-pulls");
}

Puller::~Puller() {
    stop_ = true;
    thread_.join();
}

std::optional<Error> Puller::error() const {
    const std::lock_guard lock{mutex_};
    return error_;
}

void Puller::fail(Error error) {
    {
        const std::lock_guard lock{mutex_};
        if (!error_) {
            error_ = std::move(error);
        }
    }
    stop_ = true;
}

pf_extent Puller::extent_of(std::size_t block, memory::PageRun run, std::uint64_t cookie) const {
    const std::uint64_t page_size = target_.pages.page_size(block);
    return pf_extent{.block = numbers_[block],
                     .reserved = 0,
                     .offset = run.first * page_size,
                     .length = run.count * page_size,
                     .cookie = cookie};
}

// --- of the fault server's thread --------------------------------------------------------------------------------------------

void Puller::request(std::size_t block, std::uint64_t page) {
    if (!claimed_[block].set(page)) {
        return;
    }
    if (request_count_ == batch) {
        post_requests();
    }
    const memory::PageRun run{.first = page, .count = 1};
    requested_[request_count_] = Slot{.block = block, .run = run, .asked = {}};
    requests_[request_count_++] = extent_of(block, run, urgent_bit | cookie_of(block, page));
    last_fault_.store(steady_clock::now(), std::memory_order_relaxed);
}

void Puller::post_requests() {
    std::size_t taken = 0;
    while (taken < request_count_ && !stop_) {
        const auto accepted = connection_.pull(PF_PULL_URGENT, std::span{requests_}.subspan(taken, request_count_ - taken));
        if (!accepted) {
            fail(accepted.error()); // poll() answers the same to the puller's thread, which tells of it
            break;
        }
        if (*accepted == 0) {
            break;
        }
        for (std::size_t i = taken; i < taken + *accepted; ++i) {
            target_.page.postcopy.requests.fetch_add(1, std::memory_order_relaxed);
            target_.page.postcopy.request_bytes.fetch_add(requests_[i].length, std::memory_order_relaxed);
        }
        taken += *accepted;
    }
    if (taken < request_count_) {
        for (std::size_t i = taken; i < request_count_; ++i) {
            claimed_[requested_[i].block].clear(requested_[i].run.first);
        }
        full_ = true;
        all_taken_ = false;
    }
    request_count_ = 0;
}

// --- of the engine's thread --------------------------------------------------------------------------------------------------

void Puller::know(std::size_t block, std::uint64_t pages) {
    known_[block].store(pages, std::memory_order_release); // behind the claims of claim_in_word()
    all_taken_ = false;
    if (pages == target_.blocks[block].pages()) {
        --unknown_;
    }
}

// --- of its own thread -------------------------------------------------------------------------------------------------------

void Puller::run() {
    while (!stop_ && target_.pages.missing_bytes() != 0) {
        const auto held = fill();
        if (!held) {
            fail(held.error());
            break;
        }
        auto wait = unknown_.load(std::memory_order_relaxed) != 0 ? telling_wait : completion_wait;
        if (*held) {
            wait = std::min(wait, std::chrono::ceil<milliseconds>(pacer_.wait(rate_limit())));
        }
        if (auto collected = collect(wait); !collected) {
            fail(collected.error());
            break;
        }
    }
    ended_();
}

std::uint64_t Puller::rate_limit() const {
    const std::uint64_t theirs = limit_.load(std::memory_order_relaxed);
    const std::uint64_t ours = target_.page.limits.postcopy_bandwidth.load(std::memory_order_relaxed);
    return theirs == 0 || ours == 0 ? std::max(theirs, ours) : std::min(theirs, ours);
}

// In large pieces: the transport's lanes then fill memory of their own each, and everybody is woken less often.
Result<bool> Puller::fill() {
    if (bytes_under_way_ != 0 && bytes_under_way_ + window_.refill() > window_.bytes()) {
        PAGEFERRY_TRY(post());
        return false;
    }
    while (!all_taken_ && !free_slots_.empty() && bytes_under_way_ < window_.bytes()) {
        if (batch_size_ == batch) {
            PAGEFERRY_TRY(post());
            if (batch_size_ == batch) {
                return false; // the queue is full: a completion makes room
            }
        }
        const std::uint64_t rate = rate_limit();
        const std::uint64_t allowed = pacer_.allow(window_.extent(), rate, Pacer::Clock::now());
        if (allowed == 0) {
            PAGEFERRY_TRY(post());
            return true;
        }
        const std::uint32_t number = free_slots_.back();
        Slot& slot = slots_[number];
        const bool found = take(allowed, slot);
        const std::uint64_t bytes = found ? slot.run.count * target_.pages.page_size(slot.block) : 0;
        if (bytes < allowed) {
            pacer_.give_back(allowed - bytes);
        } else {
            pacer_.owe(bytes - allowed); // of a page that is larger
        }
        if (!found) {
            break;
        }
        free_slots_.pop_back();
        bytes_under_way_ += bytes;
        batch_[batch_size_++] = extent_of(slot.block, slot.run, number);
    }
    PAGEFERRY_TRY(post());
    return false;
}

Result<void> Puller::post() {
    std::size_t taken = 0;
    while (taken < batch_size_) {
        const auto accepted = connection_.pull(PF_PULL_BULK, std::span{batch_}.subspan(taken, batch_size_ - taken));
        if (!accepted) {
            return std::unexpected(accepted.error());
        }
        if (*accepted == 0) {
            break;
        }
        taken += *accepted;
    }
    std::copy(batch_.begin() + static_cast<std::ptrdiff_t>(taken), batch_.begin() + static_cast<std::ptrdiff_t>(batch_size_),
              batch_.begin());
    batch_size_ -= taken;
    return {};
}

// The first run of pages at or after `from` that are known to be neither here nor under way, now claimed; none: the block has
// none.
std::optional<memory::PageRun> Puller::claim(std::size_t block, std::uint64_t from, std::uint64_t most) {
    const auto& received = target_.pages.received(block);
    auto& claimed = claimed_[block];
    const std::uint64_t known = known_[block].load(std::memory_order_acquire);
    for (;;) {
        const auto free = claimed.next_clear_run(from, most);
        if (!free) {
            return std::nullopt;
        }
        const auto missing = received.next_clear_run(free->first, most);
        if (!missing || missing->first >= known) {
            return std::nullopt;
        }
        if (missing->first >= free->first + free->count) {
            from = missing->first; // the whole run is here already
            continue;
        }
        const std::uint64_t end = std::min({missing->first + missing->count, free->first + free->count, known});
        memory::PageRun run{.first = missing->first, .count = 0};
        while (run.first + run.count < end && claimed.set(run.first + run.count)) {
            ++run.count;
        }
        if (run.count != 0) {
            return run;
        }
        from = run.first + 1; // a fault was quicker
    }
}

bool Puller::take(std::uint64_t bytes, Slot& slot) {
    if (const std::uint64_t hint = hint_.exchange(no_hint, std::memory_order_relaxed); hint != no_hint) {
        at_block_ = static_cast<std::size_t>(hint >> 48U);
        at_page_ = hint & page_mask;
    }
    all_taken_ = true; // until something is found, or given back meanwhile
    for (std::size_t looked = 0; looked <= target_.blocks.size(); ++looked) {
        const std::uint64_t most = std::max<std::uint64_t>(bytes / target_.pages.page_size(at_block_), 1);
        if (const auto run = claim(at_block_, at_page_, most)) {
            slot = Slot{.block = at_block_, .run = *run, .asked = steady_clock::now()};
            at_page_ = run->first + run->count;
            all_taken_ = false;
            return true;
        }
        at_block_ = (at_block_ + 1) % target_.blocks.size();
        at_page_ = 0;
    }
    return false;
}

Result<void> Puller::collect(milliseconds wait) {
    std::array<pf_completion, batch> completions{};
    const auto count = connection_.poll(completions, wait);
    if (!count) {
        return std::unexpected(count.error());
    }
    const auto now = steady_clock::now();
    for (const auto& completion : std::span{completions}.first(*count)) {
        const bool urgent = (completion.cookie & urgent_bit) != 0;
        if (completion.status != PF_OK || (!urgent && completion.cookie >= in_flight)) {
            return std::unexpected(make_error(static_cast<ErrorCode>(completion.status), "pull", "a page", connection_.describe(),
                                              "the transport completed it with status " + std::to_string(completion.status)));
        }
        if (urgent) {
            const std::uint64_t where = completion.cookie & ~urgent_bit;
            PAGEFERRY_TRY(arrived(static_cast<std::size_t>(where >> 48U), {.first = where & page_mask, .count = 1}));
            continue;
        }
        const Slot slot = slots_[completion.cookie];
        free_slots_.push_back(static_cast<std::uint32_t>(completion.cookie));
        const std::uint64_t bytes = slot.run.count * target_.pages.page_size(slot.block);
        bytes_under_way_ -= bytes;
        window_.arrived(bytes, slot.asked, now, last_fault_.load(std::memory_order_relaxed));
        PAGEFERRY_TRY(arrived(slot.block, slot.run));
    }
    if (*count != 0 && full_.exchange(false)) {
        retry_();
    }
    return {};
}

Result<void> Puller::arrived(std::size_t block, memory::PageRun run) {
    const std::uint64_t bytes = run.count * target_.pages.page_size(block);
    target_.pages.received_run(block, run);
    const auto mapped = target_.faults.map(block, run);
    const auto now = steady_clock::now();
    target_.stats.ended(block, run, now);
    target_.page.postcopy.bytes.fetch_add(bytes, std::memory_order_relaxed);
    target_.page.progress.ram_transferred.fetch_add(bytes, std::memory_order_relaxed);
    target_.page.progress.ram_remaining.store(target_.pages.missing_bytes(), std::memory_order_relaxed);
    rate_.add(bytes, now);
    return mapped;
}

} // namespace pageferry::engine
