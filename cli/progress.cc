#include "cli/progress.h"

#include <algorithm>
#include <cmath>

namespace pageferry::cli {

namespace {

// In the rest of postcopy there is no connection, or none that has been agreed on.
bool pages_flow(std::string_view postcopy_status) {
    return postcopy_status == "postcopy-active" || postcopy_status == "postcopy-device";
}

} // namespace

std::optional<double> percent_done(const Snapshot& snapshot) {
    if (snapshot.status == "completed") {
        return 100.0;
    }
    const auto to_move = bytes_left(snapshot);
    if (!snapshot.total || !to_move || *snapshot.total == 0) {
        return std::nullopt;
    }
    // During setup QEMU says "remaining 0" before it has counted anything.
    if (*to_move == 0 && snapshot.transferred.value_or(0) == 0 && !is_postcopy(snapshot.status)) {
        return 0.0;
    }
    const double left = static_cast<double>(*to_move) / static_cast<double>(*snapshot.total);
    return std::clamp(100.0 * (1.0 - left), 0.0, 100.0);
}

std::optional<std::chrono::milliseconds> time_left(std::uint64_t remaining, double rate, double dirty_rate) {
    const auto left = static_cast<double>(remaining);
    if (left <= 0) {
        return std::chrono::milliseconds{0};
    }
    const double net = rate - std::max(dirty_rate, 0.0);
    if (!(net > 0)) {
        return std::nullopt;
    }
    constexpr double longest = 100.0 * 365 * 86'400; // beyond this it is no forecast
    const double seconds = left / net;
    if (!(seconds < longest)) {
        return std::nullopt;
    }
    return std::chrono::milliseconds{std::llround(seconds * 1000)};
}

void SmoothedRate::update(std::uint64_t counter, std::chrono::steady_clock::time_point now) {
    if (!last_ || counter < *last_) {
        last_ = counter;
        last_time_ = now;
        rate_.reset();
        return;
    }
    const std::chrono::duration<double> passed = now - last_time_;
    if (passed.count() <= 0) {
        return;
    }
    const double sample = static_cast<double>(counter - *last_) / passed.count();
    const double weight = 1.0 - std::exp(-passed.count() / time_constant_.count());
    rate_ = rate_ ? *rate_ + weight * (sample - *rate_) : sample;
    last_ = counter;
    last_time_ = now;
}

void SmoothedRate::reset() {
    last_.reset();
    rate_.reset();
}

void Progress::forget() {
    rate_.reset();
    drain_.reset();
    faults_.reset();
}

void Progress::postcopy(ProgressView& view, std::chrono::steady_clock::time_point now) {
    const Snapshot& snapshot = view.snapshot;
    const PostcopyView figures = snapshot.postcopy.value_or(PostcopyView{});
    if (const auto moved = figures.bytes ? figures.bytes : snapshot.transferred) {
        rate_.update(*moved, now);
    }
    if (figures.requests) {
        faults_.update(*figures.requests, now);
    }
    view.rate = rate_.per_second();
    view.faults = faults_.per_second() ? faults_.per_second() : figures.faults_per_second;
    if (const auto left = bytes_left(snapshot); left && view.rate.value_or(0) > 0) {
        view.eta = time_left(*left, *view.rate, 0);
    }
}

ProgressView Progress::update(const Snapshot& snapshot, std::chrono::steady_clock::time_point now) {
    ProgressView view;
    view.snapshot = snapshot;
    view.percent = percent_done(snapshot);
    // What is counted changes at the switch, and nothing moves without a connection.
    if (is_postcopy(snapshot.status) != in_postcopy_ || (is_postcopy(snapshot.status) && !pages_flow(snapshot.status))) {
        forget();
        in_postcopy_ = is_postcopy(snapshot.status);
    }
    if (in_postcopy_) {
        if (pages_flow(snapshot.status)) {
            postcopy(view, now);
        }
        return view;
    }
    if (!is_under_way(snapshot.status) || !snapshot.transferred) {
        forget();
        view.rate = snapshot.rate;
        return view;
    }
    rate_.update(*snapshot.transferred, now);
    view.rate = rate_.per_second() ? rate_.per_second() : snapshot.rate;
    if (snapshot.processed) {
        drain_.update(*snapshot.processed, now);
    }
    const double drain = std::max(drain_.per_second().value_or(0), view.rate.value_or(0));
    if (snapshot.remaining && drain > 0) {
        const double dirty = snapshot.dirty_rate.value_or(0);
        view.eta = time_left(*snapshot.remaining, drain, dirty);
        view.converges = view.eta.has_value() || dirty < drain;
    }
    return view;
}

} // namespace pageferry::cli
