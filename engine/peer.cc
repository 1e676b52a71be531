#include "engine/peer.h"

#include <tuple>
#include <utility>

namespace pageferry::engine {

namespace session = transport::session;
using std::chrono::milliseconds;

namespace {
constexpr milliseconds farewell_time{50};
} // namespace

Error unexpected_message(const session::Message& message, const std::string& during) {
    return make_error(ErrorCode::protocol, during, std::string{session::name_of(message)}, "the peer sent it out of turn");
}

Error no_message(std::string_view wanted, milliseconds timeout) {
    return make_error(ErrorCode::timed_out, "wait for", std::string{wanted},
                      "the peer did not send it within " + std::to_string(timeout.count()) + " ms");
}

Result<void> Peer::connect() {
    auto opened = config_.transport->open(config_.uri, config_.options);
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
    PAGEFERRY_TRY(connection_->connect(config_.connect_timeout, {}));
    {
        const std::lock_guard lock{mutex_};
        channel_.emplace(*connection_, config_.options.dead_peer);
    }
    inbox_.emplace(*connection_, *channel_);
    return hello();
}

Result<void> Peer::hello() {
    PAGEFERRY_TRY(send(session::Hello{.session = config_.options.session,
                                      .epoch = config_.options.epoch,
                                      .role = session::Role::source,
                                      .features = 0,
                                      .software = "pageferry " PAGEFERRY_VERSION}));
    const auto reply = expect<session::HelloReply>(config_.options.handshake);
    if (!reply) {
        return std::unexpected(reply.error());
    }
    if (reply->session != config_.options.session || reply->epoch != config_.options.epoch ||
        reply->role != session::Role::destination || reply->version < session::version_min ||
        reply->version > session::version_max) {
        return std::unexpected(make_error(ErrorCode::protocol, "hello", config_.uri,
                                          "the destination answered for another session, epoch or version"));
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
    farewell(ErrorCode::cancelled, text);
    const std::lock_guard lock{mutex_};
    if (connection_) {
        connection_->cancel();
    }
}

Error Peer::cause(const Error& seen) {
    if (cancelled_) {
        return make_error(ErrorCode::cancelled, "migrate", config_.uri, "cancelled");
    }
    return inbox_ ? inbox_->cause_of(seen) : seen;
}

} // namespace pageferry::engine
