#include "cli/follow.h"

#include "cli/settings.h"

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

// How often a round of precopy is looked at that may be one too many.
constexpr milliseconds round_interval{100};
// An automatic recovery doubles the time between its attempts up to this; what it does not begin by then, and a little, it does
// not begin any more. Only needed where its attempts could not be counted.
constexpr std::chrono::seconds longest_backoff{30};
constexpr std::chrono::seconds recovery_grace{5};
// A monitor without postcopy-recover-setup (QEMU before 9.1) says nothing of an attempt that failed.
constexpr std::chrono::seconds silent_attempt{10};

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
    Result<void> look_at_pause(); // whether it is the end, and what to tell of it
    Result<void> start_postcopy();
    [[nodiscard]] bool postcopy_due() const;
    [[nodiscard]] bool wants_rounds() const;
    [[nodiscard]] bool ended() const { return started_ && (is_final(status_) || (status_ == "postcopy-paused" && gave_up_)); }
    [[nodiscard]] Outcome outcome() const;
    [[nodiscard]] steady_clock::time_point next_wake() const;

    monitor::QmpClient& client_;
    Signals& signals_;
    Reporter& reporter_;
    const FollowOptions& options_;

    Progress progress_;
    Snapshot last_;
    std::string status_;
    History history_;
    bool started_ = false;
    bool cancelling_ = false;
    bool timed_out_ = false;
    bool left_ = false;
    std::size_t attempts_noted_ = 0; // transports that could not be used
    steady_clock::time_point begin_ = steady_clock::now();
    steady_clock::time_point refresh_at_ = begin_;
    steady_clock::time_point report_at_ = begin_;               // not before: figures may be read more often than they are wanted
    std::optional<steady_clock::time_point> unannounced_since_; // query-migrate is ahead of the events

    RoundWatch rounds_;
    bool postcopy_asked_ = false;
    std::string postcopy_refused_;
    steady_clock::time_point active_since_;

    // postcopy-paused, from the connection's loss until it is postcopy-active again.
    bool moved_ = false;         // another state was seen, so a pause is not the one that was to be resumed
    bool recovered_ = false;     // postcopy-active was seen
    bool pause_seen_ = false;    // this pause was looked at
    bool gave_up_ = false;       // nobody recovers it by himself
    std::uint64_t attempts_ = 0; // at recovery
    steady_clock::time_point paused_since_;
    std::optional<steady_clock::time_point> give_up_at_;
};

void Follower::enter(const std::string& status, std::chrono::microseconds time) {
    if (status == status_) {
        return;
    }
    const auto now = steady_clock::now();
    if (is_under_way(status) && !is_under_way(status_.empty() ? "none" : status_)) {
        history_.clear(); // another migration
    }
    const bool was_paused = status_ == "postcopy-paused";
    moved_ = moved_ || status != "postcopy-paused";
    status_ = status;
    enter_state(history_, status, time);
    if (status == "active") {
        active_since_ = now;
    } else if (status == "setup" || status == "postcopy-recover-setup") {
        attempts_noted_ = 0;
        attempts_ += status == "setup" ? 0 : 1;
    } else if (status == "postcopy-active") {
        attempts_ = 0;
        recovered_ = true;
        paused_since_ = {};
    } else if (status == "postcopy-paused" && paused_since_ == steady_clock::time_point{}) {
        paused_since_ = now;
    }
    if (status == "postcopy-paused" || was_paused) {
        pause_seen_ = gave_up_ = false;
        give_up_at_.reset();
    }
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
        } else if (name == "PAGEFERRY_TRANSPORT") {
            if (auto transport = parse_transport(data)) {
                last_.transport = std::move(transport);
                note_attempts();
            }
        } else if (name == "MIGRATION_PASS") {
            refresh_at_ = wants_rounds() ? steady_clock::now() : refresh_at_;
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
    const bool due = now >= report_at_;
    if (due) {
        report_at_ = refresh_at_;
    }
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
    if (last_.status == "active" && last_.rounds && last_.remaining) {
        rounds_.see(*last_.rounds, *last_.remaining);
    }
    if (wants_rounds()) {
        refresh_at_ = std::min(refresh_at_, now + round_interval);
    }
    if (started_ && !ended()) {
        note_attempts();
        ProgressView view = progress_.update(last_, now);
        view.lanes = options_.lanes;
        view.time = wall_clock();
        if (due) {
            reporter_.progress(view);
        }
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

Result<void> Follower::look_at_pause() {
    if (pause_seen_) {
        gave_up_ = gave_up_ || (give_up_at_ && steady_clock::now() >= *give_up_at_);
        return {};
    }
    const auto now = steady_clock::now();
    if (options_.resumed && !moved_) { // the pause that is to end
        pause_seen_ = true;
        give_up_at_ = now + silent_attempt;
        return {};
    }
    AutomaticRecovery automatic;
    if (!options_.leave_when_paused && (!options_.resumed || recovered_)) {
        auto told = automatic_recovery(client_);
        if (!told) {
            return std::unexpected(std::move(told.error()));
        }
        automatic = *told;
    }
    // What happened, as soon as the monitor has it; the figures of an earlier moment may be another pause's.
    auto snapshot = query(client_);
    if (!snapshot) {
        return std::unexpected(std::move(snapshot.error()));
    }
    last_ = std::move(*snapshot);
    pause_seen_ = true;
    // Only a source recovers by itself.
    if (automatic.attempts == 0 || attempts_ >= automatic.attempts || (!last_.source && last_.status == status_)) {
        gave_up_ = true;
        return {};
    }
    give_up_at_ = now + std::max<steady_clock::duration>(automatic.backoff * 6 / 5, longest_backoff) + recovery_grace;
    if (automatic.time_limit.count() > 0) {
        give_up_at_ = std::min(*give_up_at_, std::max(now, paused_since_ + automatic.time_limit) + recovery_grace);
    }
    reporter_.note("paused: " + (last_.error.empty() ? std::string{"the monitor gives no reason"} : last_.error));
    reporter_.note("it recovers by itself: attempt " + std::to_string(attempts_ + 1) + " of " +
                   std::to_string(automatic.attempts) + " comes next");
    return {};
}

bool Follower::wants_rounds() const {
    return options_.postcopy && options_.postcopy->when == PostcopyStart::When::automatic && !postcopy_asked_ &&
           status_ == "active";
}

bool Follower::postcopy_due() const {
    if (!options_.postcopy || postcopy_asked_ || cancelling_ || status_ != "active") {
        return false;
    }
    switch (options_.postcopy->when) {
    case PostcopyStart::When::at_once: return true;
    case PostcopyStart::When::after: return steady_clock::now() >= active_since_ + options_.postcopy->after;
    case PostcopyStart::When::automatic: return rounds_.hopeless();
    }
    return false;
}

Result<void> Follower::start_postcopy() {
    postcopy_asked_ = true;
    reporter_.note(options_.postcopy->when == PostcopyStart::When::automatic
                       ? "precopy does not converge (" + std::to_string(rounds_.not_shrunk()) +
                             " rounds left hardly less than the one before): starting postcopy"
                       : "starting postcopy");
    auto answer = client_.execute("migrate-start-postcopy", nullptr, steady_clock::now() + answer_time);
    if (!answer && answer.error().code == ErrorCode::refused) {
        postcopy_refused_ = answer.error().reason; // precopy goes on
        reporter_.note("migrate-start-postcopy: " + postcopy_refused_);
        return {};
    }
    if (!answer) {
        postcopy_asked_ = answer.error().code != ErrorCode::cancelled; // Ctrl-C came first: what it asks for, comes first
        return std::unexpected(std::move(answer.error()));
    }
    return {};
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
        const bool reason_due = last_.status == "failed" || last_.status == "postcopy-paused";
        const bool complete = last_.status == "completed" ? !last_.total || last_.total_time.value_or(milliseconds{0}).count() > 0
                                                          : !reason_due || !last_.error.empty();
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
    result.left_in_postcopy = left_ && is_postcopy(status_);
    result.postcopy_refused = postcopy_refused_;
    result.summary = Summary{.last = last_,
                             .watched = std::chrono::duration_cast<milliseconds>(steady_clock::now() - begin_),
                             .timed_out = timed_out_,
                             .history = history_};
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
    if (options_.postcopy && options_.postcopy->when == PostcopyStart::When::after && !postcopy_asked_ && status_ == "active") {
        wake = std::min(wake, active_since_ + options_.postcopy->after);
    }
    if (give_up_at_) {
        wake = std::min(wake, *give_up_at_);
    }
    return wake;
}

Result<Outcome> Follower::run() {
    for (;;) {
        auto step = take_events();
        if (step && !ended() && steady_clock::now() >= refresh_at_) {
            step = refresh();
        }
        if (step && status_ == "postcopy-paused") {
            step = look_at_pause();
        }
        if (step && postcopy_due()) {
            step = start_postcopy();
        }
        if (!step && step.error().code != ErrorCode::cancelled) {
            return std::unexpected(std::move(step.error()));
        }
        if (ended()) {
            if (auto settled = settle(); !settled && settled.error().code != ErrorCode::cancelled) {
                return std::unexpected(std::move(settled.error()));
            }
            if (ended()) { // somebody may have recovered it at this moment
                return outcome();
            }
            continue;
        }
        if (signals_.pending()) {
            if (!options_.cancel_on_interrupt || cancelling_ || is_postcopy(status_)) { // postcopy cannot be cancelled
                left_ = true;
                return outcome();
            }
            if (auto asked = cancel("cancelling; a second Ctrl-C leaves at once"); !asked) {
                return std::unexpected(std::move(asked.error()));
            }
        }
        if (options_.timeout && !timed_out_ && !cancelling_ && steady_clock::now() >= begin_ + *options_.timeout) {
            timed_out_ = true;
            if (is_postcopy(status_)) {
                reporter_.note("--timeout passed, but postcopy cannot be cancelled: it goes on");
                continue;
            }
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
