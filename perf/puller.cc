#include "perf/puller.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <span>
#include <utility>

namespace pageferry::perf {

namespace {

constexpr std::uint64_t page = 4096;
constexpr std::uint64_t bulk_mark = std::uint64_t{1} << 63;
constexpr std::chrono::milliseconds look_around{50}; // whether to stop

} // namespace

Puller::Puller(transport::Connection& connection, std::uint64_t background, Arrived arrived, std::function<void()> ended)
    : connection_(connection), background_(background), arrived_(std::move(arrived)), ended_(std::move(ended)),
      free_(bulks_.size()) {
    std::iota(free_.rbegin(), free_.rend(), 0U); // NOLINT(modernize-use-ranges): GCC 12 has no std::ranges::iota
    thread_ = std::thread{[this] { run(); }};
}

Puller::~Puller() {
    stop_ = true;
    thread_.join();
}

Result<void> Puller::ask(std::uint64_t offset) {
    const std::array one{pf_extent{.block = 0, .reserved = 0, .offset = offset, .length = page, .cookie = offset}};
    ++asked_;
    last_fault_.store(Clock::now(), std::memory_order_relaxed);
    const auto taken = connection_.pull(PF_PULL_URGENT, one);
    if (!taken) {
        return std::unexpected(taken.error());
    }
    if (*taken == 0) {
        return std::unexpected(make_error(ErrorCode::internal, "pull", connection_.describe(), "There is no room for one fault"));
    }
    return {};
}

std::optional<Error> Puller::failed() const {
    const std::scoped_lock lock{mutex_};
    return failed_;
}

void Puller::run() {
    while (!stop_ || under_way_ > 0 || asked_ > 0) {
        if (auto gone = go_round(); !gone) {
            {
                const std::scoped_lock lock{mutex_};
                failed_ = std::move(gone.error());
            }
            ended_();
            return;
        }
    }
}

Result<void> Puller::fill() {
    if (under_way_ != 0 && under_way_ + window_.refill() > window_.bytes()) {
        return {};
    }
    while (!stop_ && !free_.empty() && under_way_ < window_.bytes()) {
        const std::uint64_t length = std::min(window_.extent(), background_ - next_);
        const std::size_t number = free_.back();
        const std::array one{
            pf_extent{.block = 0, .reserved = 0, .offset = next_, .length = length, .cookie = bulk_mark | number}};
        const auto taken = connection_.pull(PF_PULL_BULK, one);
        if (!taken) {
            return std::unexpected(taken.error());
        }
        if (*taken == 0) {
            break;
        }
        free_.pop_back();
        bulks_[number] = Bulk{.bytes = length, .asked = Clock::now()};
        under_way_ += length;
        next_ = (next_ + length) % background_;
    }
    return {};
}

Result<void> Puller::go_round() {
    if (background_ != 0) {
        PAGEFERRY_TRY(fill());
    }
    std::array<pf_completion, 64> done{};
    const auto finished = connection_.poll(done, look_around);
    if (!finished) {
        return std::unexpected(finished.error());
    }
    const auto now = Clock::now();
    for (const pf_completion& one : std::span{done}.first(*finished)) {
        if (one.status != PF_OK) {
            return std::unexpected(make_error(ErrorCode::io, "pull", connection_.describe(), "A page did not arrive"));
        }
        if ((one.cookie & bulk_mark) != 0) {
            const std::size_t number = one.cookie & ~bulk_mark;
            const Bulk& bulk = bulks_[number];
            window_.arrived(bulk.bytes, bulk.asked, now, last_fault_.load(std::memory_order_relaxed));
            under_way_ -= bulk.bytes;
            background_bytes_ += bulk.bytes;
            free_.push_back(number);
        } else {
            --asked_;
            PAGEFERRY_TRY(arrived_(one.cookie));
        }
    }
    return {};
}

} // namespace pageferry::perf
