#include "perf/puller.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

namespace pageferry::perf {

namespace {

constexpr std::uint64_t page = 4096;
constexpr std::uint64_t bulk_mark = std::uint64_t{1} << 63;
constexpr std::chrono::milliseconds look_around{50}; // whether to stop

} // namespace

Puller::Puller(transport::Connection& connection, const Background& background, Arrived arrived, std::function<void()> ended)
    : connection_(connection), background_(background), arrived_(std::move(arrived)), ended_(std::move(ended)),
      thread_([this] { run(); }) {}

Puller::~Puller() {
    stop_ = true;
    thread_.join();
}

Result<void> Puller::ask(std::uint64_t offset) {
    const std::array one{pf_extent{.block = 0, .reserved = 0, .offset = offset, .length = page, .cookie = offset}};
    ++asked_;
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
    while (!stop_ || bulk_ > 0 || asked_ > 0) {
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

Result<void> Puller::go_round() {
    while (!stop_ && bulk_ < background_.in_flight) {
        const std::uint64_t length = std::min(background_.extent, background_.size - next_);
        const std::array one{
            pf_extent{.block = 0, .reserved = 0, .offset = next_, .length = length, .cookie = bulk_mark | length}};
        const auto taken = connection_.pull(PF_PULL_BULK, one);
        if (!taken) {
            return std::unexpected(taken.error());
        }
        if (*taken == 0) {
            break;
        }
        ++bulk_;
        next_ = (next_ + length) % background_.size;
    }
    std::array<pf_completion, 64> done{};
    const auto finished = connection_.poll(done, look_around);
    if (!finished) {
        return std::unexpected(finished.error());
    }
    for (const pf_completion& one : std::span{done}.first(*finished)) {
        if (one.status != PF_OK) {
            return std::unexpected(make_error(ErrorCode::io, "pull", connection_.describe(), "A page did not arrive"));
        }
        if ((one.cookie & bulk_mark) != 0) {
            --bulk_;
            background_bytes_ += one.cookie & ~bulk_mark;
        } else {
            --asked_;
            PAGEFERRY_TRY(arrived_(one.cookie));
        }
    }
    return {};
}

} // namespace pageferry::perf
