#include "engine/peer.h"

#include <tuple>
#include <utility>

namespace pageferry::engine {

namespace session = transport::session;
using std::chrono::milliseconds;

namespace {
constexpr milliseconds farewell_time{50};
constexpr const char* paused_by_user = "Postcopy migration is paused by the user"; // QEMU's words

const char* name_of(pf_phase phase) {
    switch (phase) {
    case PF_PHASE_RESOLVING_ADDRESS: return "resolving address";
    case PF_PHASE_RESOLVING_ROUTE: return "resolving route";
    case PF_PHASE_CONNECTING: return "connecting";
    case PF_PHASE_HANDSHAKE: return "handshake";
    case PF_PHASE_ESTABLISHED: return "established";
    }
    return "connect";
}
} // namespace

Error unexpected_message(const session::Message& message, const std::string& during) {
    return make_error(ErrorCode::protocol, during, std::string{session::name_of(message)}, "the peer sent it out of turn");
}

Error no_message(std::string_view wanted, milliseconds timeout) {
    return make_error(ErrorCode::timed_out, "wait for", std::string{wanted},
                      "the peer did not send it within " + std::to_string(timeout.count()) + " ms");
}

Result<void> Peer::connect(const Prepare& prepare) {
    const std::uint32_t first_epoch = config_.options.epoch;
    for (std::size_t number = 0; number < config_.candidates.size() && !cancelled_; ++number) {
        const Candidate& candidate = config_.candidates[number];
        current_ = number;
        config_.options.epoch = first_epoch + static_cast<std::uint32_t>(number);
        const auto done = connect_to(candidate, prepare);
        if (done) {
            use_.connected = true;
            use_.candidate = number;
            use_.uri = candidate.uri;
            use_.name = candidate.transport->name();
            use_.connection = connection_->describe();
            use_.lanes = connection_->counters().lanes;
            config_.tell(use_);
            return {};
        }
        const Error error = inbox_ ? inbox_->cause_of(done.error()) : done.error();
        if (cancelled_) {
            break;
        }
        use_.attempts.push_back(Attempt{.uri = candidate.uri, .phase = phase_, .error = error});
        if (config_.candidates.size() > 1) {
            config_.tell(use_);
        }
        const bool last = number + 1 == config_.candidates.size();
        if (last || !another_may_do(error, channel_ && channel_->peer_failed())) {
            break; // the connection stays, for a last word
        }
        drop("the source goes on by " + config_.candidates[number + 1].uri + ", for " + error.to_string());
    }
    failed_ = none_left(use_.attempts);
    return std::unexpected(*failed_);
}

Result<void> Peer::connect_to(const Candidate& candidate, const Prepare& prepare) {
    phase_ = "load";
    if (!candidate.transport) {
        return std::unexpected(candidate.transport.error());
    }
    if (config_.no_pinning && candidate.transport->pins_memory()) {
        phase_ = "memory";
        return std::unexpected(*config_.no_pinning);
    }
    phase_ = "open";
    auto opened = candidate.transport->open(candidate.uri, config_.options);
    if (!opened) {
        return std::unexpected(std::move(opened.error()));
    }
    {
        const std::lock_guard lock{mutex_};
        connection_.emplace(std::move(*opened));
        if (cancelled_) {
            connection_->cancel();
        }
    }
    phase_ = "connect";
    PAGEFERRY_TRY(
        connection_->connect(config_.connect_timeout, [this](pf_phase phase, const std::string&) { phase_ = name_of(phase); }));
    {
        const std::lock_guard lock{mutex_};
        channel_.emplace(*connection_, config_.options.dead_peer);
    }
    inbox_.emplace(*connection_, *channel_);
    phase_ = "hello";
    PAGEFERRY_TRY(hello(candidate.uri));
    phase_ = "memory";
    return prepare ? prepare() : Result<void>{};
}

// After this nothing of the connection is left: its transport has closed it.
void Peer::drop(const std::string& why) {
    farewell(ErrorCode::cancelled, why);
    inbox_.reset();
    const std::lock_guard lock{mutex_};
    channel_.reset();
    connection_.reset();
}

Result<void> Peer::hello(const std::string& uri) {
    PAGEFERRY_TRY(send(session::Hello{.session = config_.options.session,
                                      .epoch = config_.options.epoch,
                                      .role = session::Role::source,
                                      .features = config_.features,
                                      .software = "pageferry " PAGEFERRY_VERSION}));
    const auto reply = expect<session::HelloReply>(config_.options.handshake);
    if (!reply) {
        return std::unexpected(reply.error());
    }
    if (reply->session != config_.options.session || reply->epoch != config_.options.epoch ||
        reply->role != session::Role::destination || reply->version < session::version_min ||
        reply->version > session::version_max) {
        return std::unexpected(
            make_error(ErrorCode::protocol, "hello", uri, "the destination answered for another session, epoch or version"));
    }
    if (reply->features != config_.features) {
        return std::unexpected(make_error(ErrorCode::unsupported, "hello", uri, "the destination cannot do postcopy",
                                          "run the same release of Pageferry on both hosts"));
    }
    return {};
}

void Peer::farewell(ErrorCode code, const std::string& text) {
    const std::lock_guard lock{mutex_};
    if (channel_) {
        std::ignore = channel_->send_within(session::Failure{.code = code, .text = text}, farewell_time);
    }
}

void Peer::cancel(const std::string& text) {
    cancelled_ = true;
    end(text);
}

void Peer::pause() {
    paused_ = true;
    cancelled_ = true;
    end(paused_by_user);
}

void Peer::end(const std::string& text) {
    farewell(ErrorCode::cancelled, text);
    const std::lock_guard lock{mutex_};
    if (connection_) {
        connection_->cancel();
    }
}

Error Peer::cause(const Error& seen) {
    if (cancelled_) {
        return make_error(ErrorCode::cancelled, "migrate", uri(), paused_ ? paused_by_user : "cancelled");
    }
    if (failed_) {
        return *failed_; // what the last connection says is in it
    }
    return inbox_ ? inbox_->cause_of(seen) : seen;
}

} // namespace pageferry::engine
