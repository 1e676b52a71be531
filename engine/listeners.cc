#include "engine/listeners.h"

#include <pthread.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace pageferry::engine {

namespace {
constexpr std::chrono::milliseconds slice{500};
constexpr std::size_t most_strangers = 16; // kept for one accept(); who floods us is not told of in full
} // namespace

Listeners::~Listeners() {
    cancel();
    for (const auto& one : listeners_) {
        if (one && one->thread.joinable()) {
            one->thread.join();
        }
    }
}

std::size_t Listeners::add(transport::Listener listener) {
    const std::lock_guard lock{mutex_};
    listeners_.push_back(std::make_unique<One>(std::move(listener)));
    ++open_;
    if (started_ && !stop_) {
        start(listeners_.size() - 1);
    }
    return listeners_.size() - 1;
}

void Listeners::remove(std::size_t number) {
    std::unique_ptr<One> one;
    {
        const std::lock_guard lock{mutex_};
        if (number >= listeners_.size() || !listeners_[number]) {
            return;
        }
        one = std::move(listeners_[number]);
        one->removed = true;
    }
    wanted_changed_.notify_all();
    one->listener.cancel();
    if (one->thread.joinable()) {
        one->thread.join(); // it counts itself out
    } else {
        const std::lock_guard lock{mutex_};
        --open_;
    }
}

std::size_t Listeners::size() const {
    const std::lock_guard lock{mutex_};
    return static_cast<std::size_t>(std::ranges::count_if(listeners_, [](const auto& one) { return one != nullptr; }));
}

void Listeners::cancel() {
    const std::lock_guard lock{mutex_};
    stop_ = true;
    wanted_changed_.notify_all();
    arrived_.notify_all();
    for (const auto& one : listeners_) {
        if (one) {
            one->listener.cancel();
        }
    }
}

bool Listeners::wait_until_wanted(const One& one) {
    std::unique_lock lock{mutex_};
    wanted_changed_.wait(lock, [&] { return stop_ || one.removed || wanted_; });
    if (one.removed) {
        --open_;
    }
    return !stop_ && !one.removed;
}

void Listeners::start(std::size_t number) {
    One& one = *listeners_[number];
    one.thread = std::thread{[this, &one, number] { run(one, number); }};
    pthread_setname_np(one.thread.native_handle(), ("pf-listen-" + std::to_string(number)).c_str());
}

void Listeners::run(One& one, std::size_t number) {
    while (wait_until_wanted(one)) {
        std::optional<Error> stranger;
        auto accepted = one.listener.accept(slice, &stranger);
        const std::lock_guard lock{mutex_};
        if (stranger && strangers_.size() >= most_strangers) {
            strangers_.pop_back();
        }
        if (stranger) {
            strangers_.push_back(std::move(*stranger));
        }
        if (!accepted) {
            --open_;
            if (!one.removed) {
                error_ = std::move(accepted.error());
            }
            if (open_ > 0 && !stop_ && !one.removed) {
                strangers_.push_back(*error_); // the others go on; it is not lost
            }
            arrived_.notify_all();
            return;
        }
        if (*accepted) {
            accepted_.push_back(Accepted{.listener = number, .connection = std::move(**accepted)});
            wanted_ = false;
        }
        if (*accepted || !strangers_.empty()) {
            arrived_.notify_all();
        }
    }
}

Result<std::optional<Listeners::Accepted>> Listeners::accept(std::chrono::milliseconds timeout, std::vector<Error>& strangers) {
    std::unique_lock lock{mutex_};
    if (!std::exchange(started_, true)) {
        for (std::size_t number = 0; number < listeners_.size(); ++number) {
            if (listeners_[number]) {
                start(number);
            }
        }
    }
    if (accepted_.empty() && !stop_) {
        wanted_ = true;
        wanted_changed_.notify_all();
        arrived_.wait_for(lock, timeout, [this] { return stop_ || open_ == 0 || !accepted_.empty() || !strangers_.empty(); });
    }
    strangers.insert(strangers.end(), std::make_move_iterator(strangers_.begin()), std::make_move_iterator(strangers_.end()));
    strangers_.clear();
    if (stop_) {
        return std::unexpected(make_error(ErrorCode::cancelled, "accept", {}, "cancelled"));
    }
    if (!accepted_.empty()) {
        std::optional<Accepted> first{std::move(accepted_.front())};
        accepted_.pop_front();
        return first;
    }
    if (open_ == 0) {
        return std::unexpected(error_.value_or(make_error(ErrorCode::state, "accept", {}, "there is no listener")));
    }
    return std::optional<Accepted>{};
}

} // namespace pageferry::engine
