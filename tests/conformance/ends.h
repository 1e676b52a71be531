// Owners of what the ABI gives, and pairs of connected ends. Thin: a test still reads as calls of the ABI.
#pragma once

#include "settings.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <future>
#include <iostream>
#include <optional>
#include <string>
#include <utility>

namespace pageferry::conformance {

pf_error no_error();
std::string text_of(const pf_error& error);

// Sensible options for a test: a session of its own, generous times.
pf_options test_options();

class Listener {
public:
    // On settings().uri, or the one given. A failure is the test's failure, and gives an empty one.
    static Listener start(const pf_options& options = test_options(), const std::string& uri = settings().uri);
    Listener() = default;
    explicit Listener(pf_listener* listener) : listener_(listener) {}
    Listener(Listener&& other) noexcept : listener_(std::exchange(other.listener_, nullptr)) {}
    Listener& operator=(Listener&& other) noexcept {
        std::swap(listener_, other.listener_);
        return *this;
    }
    ~Listener() { close(); }
    void close() {
        if (pf_listener* const listener = std::exchange(listener_, nullptr)) {
            transport().close_listener(listener);
        }
    }
    [[nodiscard]] pf_listener* get() const { return listener_; }
    [[nodiscard]] explicit operator bool() const { return listener_ != nullptr; }
    [[nodiscard]] std::string uri() const;

private:
    pf_listener* listener_ = nullptr;
};

class End {
public:
    static End open(const std::string& uri, const pf_options& options);
    End() = default;
    explicit End(pf_connection* connection) : connection_(connection) {}
    End(End&& other) noexcept : connection_(std::exchange(other.connection_, nullptr)) {}
    End& operator=(End&& other) noexcept {
        std::swap(connection_, other.connection_);
        return *this;
    }
    ~End() { close(); }
    void close() {
        if (pf_connection* const connection = std::exchange(connection_, nullptr)) {
            transport().close(connection);
        }
    }
    [[nodiscard]] pf_connection* get() const { return connection_; }
    [[nodiscard]] explicit operator bool() const { return connection_ != nullptr; }

private:
    pf_connection* connection_ = nullptr;
};

// One call on a thread of its own. get() gives its answer; when that does not come in time, the program says what hangs and ends,
// for a thread that hangs in a plugin cannot be joined.
template <class T>
class Background {
public:
    template <class Call>
    Background(std::string what, Call call) : what_(std::move(what)), answer_(std::async(std::launch::async, std::move(call))) {}
    T get() {
        if (answer_.wait_for(std::chrono::milliseconds{2 * patience}) != std::future_status::ready) {
            std::cerr << what_ << " hangs: it has not answered for " << 2 * patience / 1000 << " s\n" << std::flush;
            std::_Exit(1);
        }
        return answer_.get();
    }

private:
    std::string what_;
    std::future<T> answer_;
};
template <class Call>
Background(std::string, Call) -> Background<std::invoke_result_t<Call>>;

// Both ends of one connection; "source" is the one that connected.
struct Pair {
    Listener listener;
    End source;
    End destination;
    [[nodiscard]] explicit operator bool() const { return source && destination; }
};
// A failure is the test's failure, and gives an empty pair.
Pair connect_pair(const pf_options& source = test_options(), const std::optional<pf_options>& destination = {});

// Messages as strings.
int send(const End& end, const std::string& message);
// The next message; a failure of the test, and an empty string, when there is none in time.
std::string receive(const End& end);

} // namespace pageferry::conformance
