#include "engine/postcopy/page_receiver.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace pageferry::engine {

namespace {
constexpr std::uint64_t mapped_at_once = 16384;         // pages
constexpr std::size_t prepared_at_once = 1024;          // extents
constexpr std::uint64_t prepared_together = 2ULL << 20; // bytes: missing pages that are nearer than this are one extent
} // namespace

PageReceiver::PageReceiver(std::span<const memory::RamBlock> blocks, PostcopyMeans means, ControlPage& page,
                           std::function<void()> changed)
    : blocks_(blocks), means_(std::move(means)), page_(page), changed_(std::move(changed)),
      stats_(page.postcopy, means_.vcpu_threads), server_(target(), changed_), known_(blocks.size(), 0) {}

PageReceiver::~PageReceiver() {
    server_.stop();
    puller_.reset();
}

PullTarget PageReceiver::target() {
    return PullTarget{.blocks = blocks_, .pages = means_.pages, .faults = means_.faults, .stats = stats_, .page = page_};
}

Result<void> PageReceiver::arm() {
    for (std::size_t block = 0; block < blocks_.size(); ++block) {
        if (means_.pages.received(block).next_clear_run(0, 1)) {
            PAGEFERRY_TRY(means_.faults.arm(block));
        }
    }
    page_.progress.ram_remaining = means_.pages.missing_bytes();
    return {};
}

void PageReceiver::start() {
    server_.start();
    started_ = true;
}

// A fault that the dead process had read is not told again. Who waits for a page that is here is woken by mapping it, whatever
// page it is; who waits for a missing one, when that comes.
Result<void> PageReceiver::take_over() {
    for (std::size_t block = 0; block < blocks_.size(); ++block) {
        PAGEFERRY_TRY(means_.faults.arm(block));
    }
    page_.progress.ram_remaining = means_.pages.missing_bytes();
    start();
    for (std::size_t block = 0; block < blocks_.size(); ++block) {
        const auto& received = means_.pages.received(block);
        for (auto run = received.next_set_run(0, mapped_at_once); run;
             run = received.next_set_run(run->first + run->count, mapped_at_once)) {
            PAGEFERRY_TRY(means_.faults.map(block, *run));
        }
    }
    return {};
}

void PageReceiver::begin() {
    means_.pages.clear();
    known_.assign(blocks_.size(), 0);
}

void PageReceiver::know_all() {
    for (std::size_t block = 0; block < blocks_.size(); ++block) {
        known_[block] = blocks_[block].pages();
    }
}

// A page that a fault asked for meanwhile is on its way, and is not received before it is here: the guest could write to it, and
// what comes would overwrite that.
Result<void> PageReceiver::delivered(std::size_t block, std::uint64_t pages, std::span<const std::uint64_t> words) {
    const memory::PageRun told{.first = known_[block], .count = pages};
    for (std::size_t word = 0; word < words.size(); ++word) {
        const std::size_t number = told.first / 64 + word;
        const std::uint64_t here = puller_ ? puller_->claim_in_word(block, number, words[word]) : words[word];
        for (std::uint64_t wanted = means_.pages.received_in_word(block, number, here); wanted != 0; wanted &= wanted - 1) {
            const memory::PageRun page{.first = 64 * number + static_cast<unsigned>(std::countr_zero(wanted)), .count = 1};
            PAGEFERRY_TRY(means_.faults.map(block, page));
            stats_.ended(block, page, FaultStats::Clock::now());
        }
    }
    known_[block] += pages;
    page_.progress.ram_remaining = means_.pages.missing_bytes();
    if (puller_) {
        prepare(block, told);
        puller_->know(block, known_[block]);
    }
    return {};
}

// For transports that register memory: what is missing, roughly, in the order in which it is pulled.
void PageReceiver::prepare(std::size_t block, memory::PageRun run) {
    std::vector<pf_extent> extents;
    const auto& received = means_.pages.received(block);
    const std::uint64_t page_size = means_.pages.page_size(block);
    const std::uint64_t run_end = run.first + run.count;
    std::uint64_t from = run.first;
    while (const auto missing = received.next_clear_run(from, received.pages())) {
        if (missing->first >= run_end) {
            break;
        }
        const std::uint64_t last = std::min(missing->first + missing->count, run_end);
        const std::uint64_t begin = missing->first * page_size / prepared_together * prepared_together;
        const std::uint64_t end =
            std::min((last * page_size + prepared_together - 1) / prepared_together * prepared_together, run_end * page_size);
        extents.push_back(
            pf_extent{.block = numbers_[block], .reserved = 0, .offset = begin, .length = end - begin, .cookie = 0});
        from = std::max(end / page_size, last);
        if (extents.size() == prepared_at_once) {
            std::ignore = connection_->prepare(extents); // a hint: what is wrong shows at the pulls
            extents.clear();
        }
    }
    if (!extents.empty()) {
        std::ignore = connection_->prepare(extents);
    }
}

void PageReceiver::connect(transport::Connection& connection, std::vector<std::uint32_t> numbers) {
    connection_ = &connection;
    numbers_ = std::move(numbers);
    for (std::size_t block = 0; block < blocks_.size(); ++block) {
        prepare(block, {.first = 0, .count = known_[block]});
    }
    puller_ = std::make_unique<Puller>(target(), connection, numbers_, known_, limit_, changed_, [this] { server_.ask_again(); });
    server_.attach(*puller_);
}

void PageReceiver::disconnect() {
    if (puller_) {
        server_.detach();
        puller_.reset();
        connection_ = nullptr;
        stats_.paused();
    }
}

void PageReceiver::limit(std::uint64_t bytes_per_second) {
    limit_ = bytes_per_second;
    if (puller_) {
        puller_->limit(bytes_per_second);
    }
}

std::optional<Error> PageReceiver::error() const {
    if (auto error = server_.error()) {
        return error;
    }
    return puller_ ? puller_->error() : std::nullopt;
}

Result<void> PageReceiver::finish() {
    server_.stop();
    return means_.faults.disarm();
}

} // namespace pageferry::engine
