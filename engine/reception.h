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
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
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
    // By which transport the source has come.
    void tell();
    // Closes the connection; after the return nothing of it can write this side's memory.
    void drop();

    [[nodiscard]] bool connected() const { return inbox_ != nullptr; }
    [[nodiscard]] transport::Connection& connection() { return *connection_; }
    [[nodiscard]] transport::session::Channel& channel() { return *channel_; }
    [[nodiscard]] Inbox& inbox() { return *inbox_; }
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
    Result<std::optional<std::size_t>> accept(); // the way by which a peer has come

    ReceptionConfig config_;
    TransportUse use_;
    mutable std::mutex mutex_; // held to exchange or use from outside: connection_, channel_, ways_
    std::vector<Way> ways_;    // by the listeners' numbers
    std::size_t way_ = 0;      // by which the present peer came
    Listeners listeners_;
    std::optional<transport::Connection> connection_;
    std::optional<transport::session::Channel> channel_;
    std::unique_ptr<Inbox> inbox_;
    std::optional<Error> interrupted_; // why the present connection was ended from here
    std::atomic<bool> cancelled_{false};
};

} // namespace pageferry::engine
