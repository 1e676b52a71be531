// Automatic recovery of a source whose postcopy lost its connection: when to connect again by itself, how often, and when to
// leave it to a person. It decides only; the owner does the attempt and says what became of it.
//
// Off while `attempts` is 0. It waits for `backoff`, then twice as long after each failure, up to half a minute, always 10 % more
// or less, so that the many guests of a host do not all come at once. A last attempt is made when the time limit ends. Once
// attempts or time are used up it says so, once, and waits for settings that allow more, for a recovery by hand, or for the end.
// An attempt under way is never cut short from here.
//
// Threads: the monitor process's one thread, which runs the io_context. Callbacks come from there, attempt from the timer alone,
// and may call back in here.
#pragma once

#include <utility> // before Boost 1.74

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>

namespace pageferry::hypervisor {

class AutoRecovery {
public:
    using Clock = std::chrono::steady_clock;
    using Duration = std::chrono::milliseconds;

    struct Settings { // the parameters x-pageferry-recover-*
        unsigned attempts = 0;
        Duration backoff{1000}; // before the first attempt
        Duration time_limit{0}; // from the pause, 0: none
    };
    struct Callbacks {
        std::function<void()> attempt; // connect again, as `migrate resume=true` with the last good URIs; then attempt_failed()
                                       // or recovered(), at once or later
        std::function<void(const std::string& text)> log; // for a person
    };

    AutoRecovery(boost::asio::io_context& io, Callbacks callbacks);
    ~AutoRecovery();
    AutoRecovery(const AutoRecovery&) = delete;
    AutoRecovery& operator=(const AutoRecovery&) = delete;
    AutoRecovery(AutoRecovery&&) = delete;
    AutoRecovery& operator=(AutoRecovery&&) = delete;

    // At any time; a wait under way goes by the new values.
    void set(const Settings& settings);

    // The connection was lost: attempts and time begin anew. by_user: migrate-pause asked for it, also where it gave up an
    // attempt; then nothing happens by itself until a recovery by hand has succeeded and the connection is lost again.
    void paused(bool by_user);
    // A user's own attempt begins: the timer rests until it has failed. It is not counted.
    void attempt_by_user();
    // An attempt, whoever began it, has failed, and the migration is paused again.
    void attempt_failed();
    void recovered(); // the migration goes on; the next pause may come
    void stop();      // the migration is over

    [[nodiscard]] bool waiting() const { return state_ == State::waiting; } // an attempt will come
    [[nodiscard]] unsigned attempts_made() const { return made_; }          // by itself, since the pause

    // Without the 10 %, which attempt number `made + 1` waits for.
    static Duration backoff_before(Duration first, unsigned made);

private:
    enum class State : std::uint8_t {
        idle,       // nothing is paused, or a user wants it so
        off,        // paused, with `attempts` 0 from the start
        waiting,    // for the timer
        attempting, // the owner's turn
        used_up,
    };
    void schedule(Clock::time_point now);
    void arm();
    void begin();
    [[nodiscard]] std::optional<std::string> used_up(Clock::time_point now) const;
    void rest(State state);

    boost::asio::steady_timer timer_;
    Callbacks callbacks_;
    Settings settings_;
    State state_ = State::idle;
    unsigned made_ = 0;
    bool told_ = false; // that it is used up
    double spread_ = 1; // of the present wait
    Clock::time_point paused_at_;
    Clock::time_point wait_began_;
    std::shared_ptr<std::uint64_t> round_; // a timer that had run out before it was cancelled is of an earlier one
    std::minstd_rand random_;
};

} // namespace pageferry::hypervisor
