#include "hypervisor/monitor_process/auto_recovery.h"

#include <algorithm>
#include <utility>

namespace pageferry::hypervisor {

namespace {

constexpr AutoRecovery::Duration longest_doubled{30'000};
constexpr double spread = 0.1;

std::string shown(AutoRecovery::Duration duration) {
    return duration.count() % 1000 == 0 ? std::to_string(duration.count() / 1000) + " s"
                                        : std::to_string(duration.count()) + " ms";
}

std::string failed_attempts(unsigned number) {
    return std::to_string(number) + (number == 1 ? " failed attempt" : " failed attempts");
}

} // namespace

AutoRecovery::AutoRecovery(boost::asio::io_context& io, Callbacks callbacks)
    : timer_(io), callbacks_(std::move(callbacks)), round_(std::make_shared<std::uint64_t>(0)), random_(std::random_device{}()) {}

AutoRecovery::~AutoRecovery() {
    ++*round_;
}

AutoRecovery::Duration AutoRecovery::backoff_before(Duration first, unsigned made) {
    Duration wait = first;
    for (unsigned i = 0; i < made && wait < longest_doubled; ++i) {
        wait = std::min(wait * 2, longest_doubled);
    }
    return wait;
}

void AutoRecovery::rest(State state) {
    ++*round_;
    timer_.cancel();
    state_ = state;
}

void AutoRecovery::set(const Settings& settings) {
    settings_ = settings;
    switch (state_) {
    case State::idle:
    case State::attempting: break;
    case State::off:
        if (settings_.attempts > 0) {
            schedule(Clock::now());
        }
        break;
    case State::used_up:
        if (!used_up(Clock::now())) {
            schedule(Clock::now());
        }
        break;
    case State::waiting:
        if (settings_.attempts == 0) {
            rest(State::off);
        } else if (used_up(Clock::now())) {
            schedule(Clock::now());
        } else {
            arm();
        }
        break;
    }
}

void AutoRecovery::paused(bool by_user) {
    made_ = 0;
    told_ = false;
    paused_at_ = Clock::now();
    if (by_user) {
        rest(State::idle);
    } else if (settings_.attempts == 0) {
        rest(State::off);
    } else {
        schedule(paused_at_);
    }
}

void AutoRecovery::attempt_by_user() {
    if (state_ != State::idle) {
        rest(State::attempting);
    }
}

void AutoRecovery::attempt_failed() {
    if (state_ == State::idle) {
        return; // a user paused it, or it is over
    }
    if (settings_.attempts == 0) {
        rest(State::off);
    } else {
        schedule(Clock::now());
    }
}

void AutoRecovery::recovered() {
    rest(State::idle);
}

void AutoRecovery::stop() {
    rest(State::idle);
}

std::optional<std::string> AutoRecovery::used_up(Clock::time_point now) const {
    if (made_ >= settings_.attempts) {
        return failed_attempts(made_);
    }
    if (settings_.time_limit.count() > 0 && now - paused_at_ >= settings_.time_limit) {
        return failed_attempts(made_) + " in the time limit of " + shown(settings_.time_limit);
    }
    return std::nullopt;
}

void AutoRecovery::schedule(Clock::time_point now) {
    if (const auto why = used_up(now)) {
        rest(State::used_up);
        if (!std::exchange(told_, true) && callbacks_.log) {
            callbacks_.log("automatic recovery gives up: " + *why +
                           "; the migration stays postcopy-paused: repair the connection, then give migrate with resume=true "
                           "(pageferry recover)");
        }
        return;
    }
    told_ = false;
    state_ = State::waiting;
    spread_ = std::uniform_real_distribution<double>{1 - spread, 1 + spread}(random_);
    wait_began_ = now;
    arm();
}

void AutoRecovery::arm() {
    const Duration plain = backoff_before(settings_.backoff, made_);
    auto due = wait_began_ + std::chrono::duration_cast<Clock::duration>(
                                 std::chrono::duration<double, std::milli>{static_cast<double>(plain.count()) * spread_});
    if (settings_.time_limit.count() > 0) {
        due = std::min<Clock::time_point>(due, paused_at_ + settings_.time_limit);
    }
    const std::uint64_t mine = ++*round_;
    timer_.expires_at(due);
    timer_.async_wait([this, round = round_, mine](const boost::system::error_code& error) {
        if (!error && *round == mine) {
            begin();
        }
    });
}

void AutoRecovery::begin() {
    ++made_;
    state_ = State::attempting;
    if (callbacks_.log) {
        callbacks_.log("automatic recovery: attempt " + std::to_string(made_) + " of " + std::to_string(settings_.attempts) +
                       " begins");
    }
    callbacks_.attempt();
}

} // namespace pageferry::hypervisor
