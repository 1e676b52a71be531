#include "engine/listeners.h"

#include <pthread.h>

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
        if (one->thread.joinable()) {
            one->thread.join();
        }
    }
}

void Listeners::add(transport::Listener listener) {
    listeners_.push_back(std::make_unique<One>(std::move(listener)));
    ++open_;
}

void Listeners::cancel() {
    {
        const std::lock_guard lock{mutex_};
        stop_ = true;
    }
    wanted_changed_.notify_all();
    arrived_.notify_all();
    for (const auto& one : listeners_) {
        one->listener.cancel();
    }
}

bool Listeners::wait_until_wanted() {
    std::unique_lock lock{mutex_};
    wanted_changed_.wait(lock, [this] { return stop_ || wanted_; });
    return !stop_;
}

void Listeners::run(std::size_t number) {
    while (wait_until_wanted()) {
        std::optional<Error> stranger;
        auto accepted = listeners_[number]->listener.accept(slice, &stranger);
        const std::lock_guard lock{mutex_};
        if (stranger && strangers_.size() >= most_strangers) {
            strangers_.pop_back();
        }
        if (stranger) {
            strangers_.push_back(std::move(*stranger));
        }
        if (!accepted) {
            error_ = std::move(accepted.error());
            --open_;
            if (open_ > 0 && !stop_) {
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
            auto& thread = listeners_[number]->thread;
            thread = std::thread{[this, number] { run(number); }};
            pthread_setname_np(thread.native_handle(), ("pf-listen-" + std::to_string(number)).c_str());
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
