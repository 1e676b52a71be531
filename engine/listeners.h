// Several transports' listeners as one: whoever comes first by any of them.
//
// Each listener has a thread of its own ("pf-listen-N"), for accept() of a transport blocks. The threads accept only while
// somebody waits in accept() here, and sleep otherwise: a second peer stays in its listener's backlog while the first is served.
//
// Threads: add() before the first accept(); accept() by one thread; cancel() by any.
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
        std::size_t listener; // its number, in the order of add()
        transport::Connection connection;
    };

    Listeners() = default;
    ~Listeners(); // ends the threads, then closes the listeners
    Listeners(const Listeners&) = delete;
    Listeners& operator=(const Listeners&) = delete;

    void add(transport::Listener listener);
    [[nodiscard]] std::size_t size() const { return listeners_.size(); }

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
    };
    void run(std::size_t number);
    bool wait_until_wanted();

    std::vector<std::unique_ptr<One>> listeners_;
    std::mutex mutex_;
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
