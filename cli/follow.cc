#include "cli/follow.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace pageferry::cli {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

std::chrono::microseconds wall_clock() {
    return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch());
}

class Follower {
public:
    Follower(monitor::QmpClient& client, Signals& signals, Reporter& reporter, const FollowOptions& options)
        : client_(client), signals_(signals), reporter_(reporter), options_(options) {}

    Result<Outcome> run();

private:
    Result<void> take_events();
    Result<void> refresh();
    void note_attempts();
    Result<void> cancel(const char* note);
    Result<void> settle(); // the last figures, once the monitor has them
    void enter(const std::string& status, std::chrono::microseconds time);
    [[nodiscard]] bool ended() const { return started_ && (is_final(status_) || status_ == "postcopy-paused"); }
    [[nodiscard]] Outcome outcome() const;
    [[nodiscard]] steady_clock::time_point next_wake() const;

    monitor::QmpClient& client_;
    Signals& signals_;
    Reporter& reporter_;
    const FollowOptions& options_;

    Progress progress_;
    Snapshot last_;
    std::string status_;
    bool started_ = false;
    bool cancelling_ = false;
    bool timed_out_ = false;
    bool left_ = false;
    std::size_t attempts_noted_ = 0; // transports that could not be used
    steady_clock::time_point begin_ = steady_clock::now();
    steady_clock::time_point refresh_at_ = begin_;
    std::optional<steady_clock::time_point> unannounced_since_; // query-migrate is ahead of the events
};

void Follower::enter(const std::string& status, std::chrono::microseconds time) {
    if (status == status_) {
        return;
    }
    status_ = status;
    if (is_under_way(status)) {
        started_ = true;
    } else if (!options_.wait_for_start) {
        started_ = started_ || is_final(status);
    }
    reporter_.state(StateChange{.status = status, .time = time});
}

Result<void> Follower::take_events() {
    for (;;) {
        auto event = client_.next_event(steady_clock::time_point{});
        if (!event) {
            return std::unexpected(std::move(event.error()));
        }
        const std::optional<monitor::QmpEvent>& next = *event;
        if (!next) {
            return {};
        }
        const auto& [name, data, time] = *next;
        if (name == "MIGRATION" && data.is_object() && data.contains("status") && data["status"].is_string()) {
            enter(data["status"].get<std::string>(), time);
            unannounced_since_.reset();
        } else if (name == "STOP" || name == "RESUME") {
            reporter_.state(StateChange{.status = name, .time = time, .run_state = true});
        }
    }
}

Result<void> Follower::refresh() {
    auto snapshot = query(client_);
    if (!snapshot) {
        return std::unexpected(std::move(snapshot.error()));
    }
    // Events that were sent before the answer were read with it: they come first.
    if (auto taken = take_events(); !taken) {
        return taken;
    }
    const auto now = steady_clock::now();
    refresh_at_ = now + reporter_.interval();
    last_ = std::move(*snapshot);
    if (last_.status != status_) {
        // The event of a change may still be on its way, with others before it. It is not waited for without end.
        constexpr milliseconds patience{1000};
        if (!unannounced_since_) {
            unannounced_since_ = now;
        }
        if (status_.empty() || !options_.events || now - *unannounced_since_ >= patience) {
            enter(last_.status, wall_clock());
            unannounced_since_.reset();
        }
    } else {
        unannounced_since_.reset();
    }
    if (started_ && !ended()) {
        note_attempts();
        ProgressView view = progress_.update(last_, now);
        view.lanes = options_.lanes;
        view.time = wall_clock();
        reporter_.progress(view);
    }
    return {};
}

// Each once, above the live line, which may have no room for them.
void Follower::note_attempts() {
    if (!last_.transport || last_.transport->attempts.size() < attempts_noted_) {
        attempts_noted_ = 0; // another migration
    }
    for (; last_.transport && attempts_noted_ < last_.transport->attempts.size(); ++attempts_noted_) {
        reporter_.note("could not use " + render_attempt(last_.transport->attempts[attempts_noted_]));
    }
}

Result<void> Follower::cancel(const char* note) {
    cancelling_ = true;
    reporter_.note(note);
    auto answer = client_.execute("migrate_cancel", nullptr, steady_clock::now() + answer_time);
    if (!answer && answer.error().code != ErrorCode::refused && answer.error().code != ErrorCode::cancelled) {
        return std::unexpected(std::move(answer.error()));
    }
    if (!answer && answer.error().code == ErrorCode::refused) {
        reporter_.note("migrate_cancel: " + answer.error().reason); // postcopy cannot be cancelled
        cancelling_ = false;
    }
    return {};
}

Result<void> Follower::settle() {
    // QEMU announces the end a moment before it has filled in total time, downtime or the reason of a failure.
    for (int attempt = 0; attempt < 25; ++attempt) {
        auto snapshot = query(client_);
        if (!snapshot) {
            // A destination that ends after a failure takes its monitor with it; what was seen last stands.
            return snapshot.error().code == ErrorCode::closed ? Result<void>{} : std::unexpected(std::move(snapshot.error()));
        }
        last_ = std::move(*snapshot);
        const bool complete = last_.status == "completed" ? !last_.total || last_.total_time.value_or(milliseconds{0}).count() > 0
                                                          : last_.status != "failed" || !last_.error.empty();
        if (last_.status == status_ && complete) {
            break;
        }
        (void)::poll(nullptr, 0, 20);
    }
    last_.status = status_;
    note_attempts();
    return take_events();
}

Outcome Follower::outcome() const {
    Outcome result;
    result.started = started_;
    result.summary = Summary{.last = last_,
                             .watched = std::chrono::duration_cast<milliseconds>(steady_clock::now() - begin_),
                             .timed_out = timed_out_};
    if (left_) {
        result.code = exit_left;
    } else if (status_ == "completed") {
        result.code = exit_ok;
    } else if (status_ == "cancelled") {
        result.code = timed_out_ ? exit_timeout : exit_cancelled;
    } else if (status_ == "postcopy-paused") {
        result.code = exit_paused;
    } else {
        result.code = exit_failed;
    }
    return result;
}

steady_clock::time_point Follower::next_wake() const {
    steady_clock::time_point wake = refresh_at_;
    if (options_.timeout && !timed_out_ && !cancelling_) {
        wake = std::min(wake, begin_ + *options_.timeout);
    }
    return wake;
}

Result<Outcome> Follower::run() {
    for (;;) {
        auto step = take_events();
        if (step && !ended() && steady_clock::now() >= refresh_at_) {
            step = refresh();
        }
        if (!step && step.error().code != ErrorCode::cancelled) {
            return std::unexpected(std::move(step.error()));
        }
        if (ended()) {
            if (auto settled = settle(); !settled && settled.error().code != ErrorCode::cancelled) {
                return std::unexpected(std::move(settled.error()));
            }
            return outcome();
        }
        if (signals_.pending()) {
            if (!options_.cancel_on_interrupt || cancelling_) {
                left_ = true;
                return outcome();
            }
            if (auto asked = cancel("cancelling; a second Ctrl-C leaves at once"); !asked) {
                return std::unexpected(std::move(asked.error()));
            }
        }
        if (options_.timeout && !timed_out_ && !cancelling_ && steady_clock::now() >= begin_ + *options_.timeout) {
            timed_out_ = true;
            if (auto asked = cancel("--timeout passed; cancelling"); !asked) {
                return std::unexpected(std::move(asked.error()));
            }
        }
        std::array<pollfd, 2> entries{pollfd{.fd = client_.descriptor(), .events = POLLIN, .revents = 0},
                                      pollfd{.fd = signals_.descriptor(), .events = POLLIN, .revents = 0}};
        const auto left = std::chrono::ceil<milliseconds>(next_wake() - steady_clock::now()).count();
        if (::poll(entries.data(), entries.size(), static_cast<int>(std::clamp<long long>(left, 0, 60'000))) < 0 &&
            errno != EINTR) {
            return std::unexpected(errno_error(errno, "poll"));
        }
    }
}

} // namespace

Result<Snapshot> query(monitor::QmpClient& client) {
    auto answer = client.execute("query-migrate", nullptr, steady_clock::now() + answer_time);
    if (!answer) {
        return std::unexpected(std::move(answer.error()));
    }
    return parse_snapshot(*answer);
}

Result<Outcome> follow(monitor::QmpClient& client, Signals& signals, Reporter& reporter, const FollowOptions& options) {
    return Follower{client, signals, reporter, options}.run();
}

} // namespace pageferry::cli
