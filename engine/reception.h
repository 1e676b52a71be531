// Where a destination receives its source: listeners of all transports, the connection of the present peer, its hello, and how a
// stranger is turned away.
//
// A peer that is turned away changes nothing: its connection is closed, and the listeners go on.
// Threads: the engine's; listen_also(), wake(), cancel() and interrupt() by any.
#pragma once

#include "base/error.h"
#include "engine/candidates.h"
#include "engine/inbox.h"
#include "engine/listeners.h"
#include "transport/connection.h"
#include "transport/session/channel.h"
#include "transport/session/messages.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace pageferry::engine {

struct ReceptionConfig {
    std::vector<Candidate> candidates; // all are listened on at once
    transport::Options options;
    std::uint64_t features = 0; // session::feature_..., of this side
    // Told of the transport by which the source came, and of those that could not be listened on.
    TellTransport tell = [](const TransportUse&) {};
    // Told of each peer that was turned away: for the log.
    std::function<void(const Error&)> turned_away = [](const Error&) {};
};

class Reception {
public:
    explicit Reception(ReceptionConfig config) : config_(std::move(config)) {}
    ~Reception() { drop(); }
    Reception(const Reception&) = delete;
    Reception& operator=(const Reception&) = delete;

    // Binds and listens; the URIs a source can connect to, at least one. A failure (port taken, no such address) of all of them
    // changes nothing; where only some have failed, attempts() tells why.
    Result<std::vector<std::string>> listen();
    // Besides those, in the place of those of the last such call. A candidate that is listened on already is left as it is.
    Result<std::vector<std::string>> listen_also(std::vector<Candidate> candidates);
    [[nodiscard]] const std::vector<Attempt>& attempts() const { return use_.attempts; }
    [[nodiscard]] std::size_t ways() const { return listeners_.size(); }
    [[nodiscard]] std::string uri() const; // by which the present, or the latest, peer came

    // The hello of the next peer, which has not been answered; empty: none yet, after at most half a second. Error: nobody can
    // come any more.
    Result<std::optional<transport::session::Hello>> next();
    // It is the source: hello is answered.
    Result<void> welcome(const transport::session::Hello& hello);
    // It is not: it is told why, where it can be, and closed. Answers empty, or the error after cancel().
    Result<std::optional<transport::session::Hello>> turn_away(Error error);
    // Whether the source of this session, whose connection is the present one, comes by a new one: then it has given up the
    // present one, whatever this side knows of that, and next() answers the new one. Whoever else comes meanwhile is turned away.
    // Waits for nobody.
    [[nodiscard]] bool comes_again(const transport::SessionId& session, std::uint32_t epoch);
    // By which transport the source has come.
    void tell();
    // Closes the connection; after the return nothing of it can write this side's memory.
    void drop();

    [[nodiscard]] bool connected() const { return present_ != nullptr; }
    [[nodiscard]] transport::Connection& connection() { return present_->connection; }
    [[nodiscard]] transport::session::Channel& channel() { return present_->channel; }
    [[nodiscard]] Inbox& inbox() { return present_->inbox; }
    // The first thing that went wrong, where what was seen is only its consequence.
    [[nodiscard]] Error cause(const Error& seen);

    void wake(); // what waits in inbox() looks again

    // The peer is told, and the present connection ends; the listeners go on. What the engine waits for in it ends within 100 ms.
    // False: there is none.
    bool interrupt(ErrorCode code, const std::string& text);
    // The same, and the listeners end too.
    void cancel(ErrorCode code, const std::string& text);
    [[nodiscard]] bool cancelled() const { return cancelled_; }

private:
    struct Way { // a listener
        std::string uri;
        std::size_t candidate = 0;
        std::string name; // of the transport's plugin
        bool also = false;
    };
    struct Caller {
        Caller(Listeners::Accepted accepted, std::chrono::milliseconds dead_peer)
            : way(accepted.listener), connection(std::move(accepted.connection)), channel(connection, dead_peer),
              inbox(connection, channel) {}
        std::size_t way;
        std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();
        transport::Connection connection;
        transport::session::Channel channel;
        Inbox inbox; // first to go: its thread uses the others
    };
    Result<std::unique_ptr<Caller>> accept(std::chrono::milliseconds wait); // none: nobody has come
    Result<transport::session::Hello> read_hello(Caller& caller, std::chrono::milliseconds wait);
    void send_away(std::unique_ptr<Caller> caller, const Error& error);

    ReceptionConfig config_;
    TransportUse use_;
    mutable std::mutex mutex_; // held to exchange or use from outside: ways_, present_, at_the_door_
    std::vector<Way> ways_;    // by the listeners' numbers
    std::size_t way_ = 0;      // by which the present peer came
    Listeners listeners_;
    std::unique_ptr<Caller> present_;
    std::unique_ptr<Caller> at_the_door_; // while another is present
    std::optional<transport::session::Hello> hello_at_the_door_;
    std::optional<Error> interrupted_; // why the present connection was ended from here
    std::atomic<bool> cancelled_{false};
};

} // namespace pageferry::engine
