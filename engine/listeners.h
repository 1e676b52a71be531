// Several transports' listeners as one: whoever comes first by any of them.
//
// Each listener has a thread of its own ("pf-listen-N"), for accept() of a transport blocks. The threads accept only while
// somebody waits in accept() here, and sleep otherwise: a second peer stays in its listener's backlog while the first is served.
//
// Threads: accept() by one thread; all others by any.
#pragma once

#include "base/error.h"
#include "transport/connection.h"

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace pageferry::engine {

class Listeners {
public:
    struct Accepted {
        std::size_t listener; // its number
        transport::Connection connection;
    };

    Listeners() = default;
    ~Listeners(); // ends the threads, then closes the listeners
    Listeners(const Listeners&) = delete;
    Listeners& operator=(const Listeners&) = delete;

    std::size_t add(transport::Listener listener); // its number
    void remove(std::size_t number);               // closed; the numbers of the others stay
    [[nodiscard]] std::size_t size() const;        // of those that were not removed

    // The next peer whose transport handshake is done; empty: none in time, or strangers only. strangers: the latest ones turned
    // away are added. Error: no listener is left (the last one's error); cancelled after cancel().
    Result<std::optional<Accepted>> accept(std::chrono::milliseconds timeout, std::vector<Error>& strangers);
    // Every accept() under way and every later one ends.
    void cancel();

private:
    struct One {
        explicit One(transport::Listener opened) : listener(std::move(opened)) {}
        transport::Listener listener;
        std::thread thread;
        bool removed = false;
    };
    void start(std::size_t number);
    void run(One& one, std::size_t number);
    bool wait_until_wanted(const One& one);

    mutable std::mutex mutex_;                    // of everything
    std::vector<std::unique_ptr<One>> listeners_; // a removed one's place is empty
    std::condition_variable wanted_changed_;
    std::condition_variable arrived_;
    bool started_ = false;
    bool wanted_ = false;
    bool stop_ = false;
    std::size_t open_ = 0; // listeners that have not failed
    std::deque<Accepted> accepted_;
    std::vector<Error> strangers_;
    std::optional<Error> error_; // of the last listener that failed
};

} // namespace pageferry::engine
