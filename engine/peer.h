// The other side of a migration, as the side that connects sees it: the connection, the session on it, and what has gone wrong
// first.
//
// There may be several ways to it: they are tried in order until one carries a session. Each has a connection of its own, with an
// epoch of its own, and the one before is closed by then: nothing old can land.
//
// Threads: the engine's; cancel() by any.
#pragma once

#include "base/error.h"
#include "engine/candidates.h"
#include "engine/inbox.h"
#include "transport/connection.h"
#include "transport/session/channel.h"
#include "transport/session/messages.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace pageferry::engine {

struct PeerConfig {
    std::vector<Candidate> candidates;
    std::uint64_t features = 0;                      // session::feature_...: the destination must have them too
    transport::Options options;                      // epoch: of the first candidate; each further one has the next number
    transport::Milliseconds connect_timeout{30'000}; // of each candidate
    // Why no transport may be used that pins this side's memory; empty: any may.
    std::optional<Error> no_pinning;
    // Told of the transport that is used, and, where there are several, of each that failed. On the thread of connect().
    TellTransport tell = [](const TransportUse&) {};
};

class Peer {
public:
    explicit Peer(PeerConfig config) : config_(std::move(config)) {}

    // What a connection must be able to do, besides hello, before it is the one.
    using Prepare = std::function<Result<void>()>;

    // All phases of the transport, then hello: the peer is a destination of ours that agrees on version, session and epoch; then
    // `prepare`, on that connection. A candidate that cannot do it is closed, and the next is tried, unless the peer itself
    // refuses, or cancel() was called. Error: see none_left().
    Result<void> connect(const Prepare& prepare = {});
    Result<void> send(const transport::session::Message& message) { return channel_->send(message); }
    // The next message, which must be a T; protocol error if it is not, timed_out if none comes.
    template <class T>
    Result<T> expect(std::chrono::milliseconds timeout);
    // A last word that nobody waits for: the peer learns it in words where it can, else by the end of the connection.
    void farewell(ErrorCode code, const std::string& text);
    // Every wait in here and in the connection ends within 100 ms.
    void cancel(const std::string& text);
    // The same, for migrate-pause; cause() says so.
    void pause();

    [[nodiscard]] bool cancelled() const { return cancelled_; }
    // The first thing that went wrong, where what was seen is only its consequence.
    [[nodiscard]] Error cause(const Error& seen);
    [[nodiscard]] transport::Connection& connection() { return *connection_; }
    [[nodiscard]] Inbox& inbox() { return *inbox_; }
    [[nodiscard]] const PeerConfig& config() const { return config_; }

private:
    Result<void> connect_to(const Candidate& candidate, const Prepare& prepare);
    Result<void> hello(const std::string& uri);
    void drop(const std::string& why);
    void end(const std::string& text);
    [[nodiscard]] std::string uri() const { return config_.candidates.at(current_).uri; }

    PeerConfig config_;
    std::size_t current_ = 0; // candidate
    TransportUse use_;
    std::string phase_;           // of connect()
    std::optional<Error> failed_; // why connect() has failed
    std::mutex mutex_;            // held to make connection_ and channel_, and to use them from cancel()
    std::optional<transport::Connection> connection_;
    std::optional<transport::session::Channel> channel_;
    std::optional<Inbox> inbox_;
    std::atomic<bool> cancelled_{false};
    std::atomic<bool> paused_{false};
};

Error unexpected_message(const transport::session::Message& message, const std::string& during);
Error no_message(std::string_view wanted, std::chrono::milliseconds timeout);

template <class T>
Result<T> Peer::expect(std::chrono::milliseconds timeout) {
    namespace session = transport::session;
    auto message = inbox_->wait(timeout);
    if (!message) {
        return std::unexpected(std::move(message.error()));
    }
    const auto wanted_name = session::name_of(session::Message{T{}});
    if (!*message) {
        return std::unexpected(no_message(wanted_name, timeout));
    }
    if (auto* wanted = std::get_if<T>(&**message)) {
        return std::move(*wanted);
    }
    return std::unexpected(unexpected_message(**message, "wait for " + std::string{wanted_name}));
}

} // namespace pageferry::engine
