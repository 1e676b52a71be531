// A relay of TCP connections that can be cut: what lies between two hosts.
//
// Threads: made and unmade by one; its functions by any.
#pragma once

#include "base/fd.h"

#include <atomic>
#include <list>
#include <mutex>
#include <string>
#include <thread>

namespace pageferry::engine::testing {

class Relay {
public:
    explicit Relay(const std::string& target); // "tcp:127.0.0.1:PORT"
    ~Relay();
    Relay(const Relay&) = delete;
    Relay& operator=(const Relay&) = delete;

    [[nodiscard]] const std::string& uri() const { return uri_; }
    // Every connection through it ends; later ones pass again.
    void cut();

private:
    struct Pair {
        Pair(Fd one, Fd other);
        ~Pair();
        Pair(const Pair&) = delete;
        Pair& operator=(const Pair&) = delete;
        Fd caller, callee;
        std::thread there, back;
    };
    void serve();

    unsigned target_;
    Fd listener_;
    std::string uri_;
    std::mutex mutex_; // of pairs_
    std::list<Pair> pairs_;
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

// A socket that listens on 127.0.0.1, and its URI. The kernel completes connections to it; nobody need accept them.
std::pair<Fd, std::string> listen_on_loopback();

} // namespace pageferry::engine::testing
