#include "engine/reception.h"

#include "engine/peer.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace pageferry::engine {

namespace session = transport::session;
using std::chrono::milliseconds;

namespace {
constexpr milliseconds accept_wait{500};
// A source says Hello as soon as it is connected. Who says nothing must not keep one that waits behind it beyond its own
// deadline.
constexpr milliseconds hello_wait{5000};
constexpr milliseconds farewell{200};
constexpr milliseconds short_farewell{50};
} // namespace

Result<std::vector<std::string>> Reception::listen() {
    std::vector<std::string> uris;
    for (std::size_t number = 0; number < config_.candidates.size(); ++number) {
        const Candidate& candidate = config_.candidates[number];
        if (!candidate.transport) {
            use_.attempts.push_back(Attempt{.uri = candidate.uri, .phase = "load", .error = candidate.transport.error()});
            continue;
        }
        auto listener = candidate.transport->listen(candidate.uri, config_.options);
        if (!listener) {
            use_.attempts.push_back(Attempt{.uri = candidate.uri, .phase = "listen", .error = std::move(listener.error())});
            continue;
        }
        uris.push_back(listener->uri());
        const std::lock_guard lock{mutex_};
        ways_.push_back(Way{.uri = uris.back(), .candidate = number, .name = candidate.transport->name()});
        listeners_.add(std::move(*listener));
    }
    if (uris.empty()) {
        return std::unexpected(none_left(use_.attempts));
    }
    return uris;
}

Result<std::vector<std::string>> Reception::listen_also(std::vector<Candidate> candidates) {
    std::vector<std::string> uris;
    std::vector<Attempt> failed;
    const std::lock_guard lock{mutex_};
    // First those of the last time: the same port may be wanted again.
    for (std::size_t number = 0; number < ways_.size(); ++number) {
        const bool again = std::ranges::any_of(candidates, [&](const Candidate& one) { return one.uri == ways_[number].uri; });
        if (std::exchange(ways_[number].also, again && ways_[number].also) && !again) {
            ways_[number].uri.clear();
            listeners_.remove(number);
        }
    }
    for (std::size_t number = 0; number < candidates.size(); ++number) {
        const Candidate& candidate = candidates[number];
        if (std::ranges::find(ways_, candidate.uri, &Way::uri) != ways_.end()) {
            uris.push_back(candidate.uri);
            continue;
        }
        if (!candidate.transport) {
            failed.push_back(Attempt{.uri = candidate.uri, .phase = "load", .error = candidate.transport.error()});
            continue;
        }
        auto listener = candidate.transport->listen(candidate.uri, config_.options);
        if (!listener) {
            failed.push_back(Attempt{.uri = candidate.uri, .phase = "listen", .error = std::move(listener.error())});
            continue;
        }
        uris.push_back(listener->uri());
        ways_.push_back(Way{.uri = uris.back(), .candidate = number, .name = candidate.transport->name(), .also = true});
        listeners_.add(std::move(*listener));
    }
    if (uris.empty()) {
        return std::unexpected(none_left(failed));
    }
    for (const Attempt& attempt : failed) {
        config_.turned_away(attempt.error);
    }
    return uris;
}

std::string Reception::uri() const {
    const std::lock_guard lock{mutex_};
    return ways_.at(way_).uri;
}

Result<std::optional<std::size_t>> Reception::accept() {
    std::vector<Error> strangers;
    auto accepted = listeners_.accept(accept_wait, strangers);
    for (const Error& stranger : strangers) {
        config_.turned_away(stranger);
    }
    if (!accepted) {
        return std::unexpected(std::move(accepted.error()));
    }
    if (!*accepted) {
        return std::nullopt;
    }
    const std::lock_guard lock{mutex_};
    interrupted_.reset();
    connection_.emplace(std::move((*accepted)->connection));
    channel_.emplace(*connection_, config_.options.dead_peer);
    if (cancelled_) {
        connection_->cancel();
    }
    inbox_ = std::make_unique<Inbox>(*connection_, *channel_);
    return (*accepted)->listener;
}

Result<std::optional<session::Hello>> Reception::next() {
    drop();
    const auto way = accept();
    if (!way) {
        return std::unexpected(way.error());
    }
    if (!*way) {
        return std::nullopt;
    }
    {
        const std::lock_guard lock{mutex_};
        way_ = **way;
    }
    auto first = inbox_->wait(std::min<milliseconds>(config_.options.handshake, hello_wait));
    if (!first || !*first) {
        return turn_away(first ? make_error(ErrorCode::timed_out, "wait for", "Hello", "the peer connected and said nothing")
                               : cause(first.error()));
    }
    auto* hello = std::get_if<session::Hello>(&**first);
    if (hello == nullptr || hello->role != session::Role::source) {
        return turn_away(unexpected_message(**first, "hello"));
    }
    if (auto version = session::agree_version(*hello); !version) {
        return turn_away(std::move(version.error()));
    }
    return std::move(*hello);
}

Result<void> Reception::welcome(const session::Hello& hello) {
    const auto version = session::agree_version(hello);
    if (!version) {
        return std::unexpected(version.error());
    }
    return channel_->send(session::HelloReply{.version = *version,
                                              .session = hello.session,
                                              .epoch = hello.epoch,
                                              .role = session::Role::destination,
                                              .features = hello.features & config_.features,
                                              .software = "pageferry " PAGEFERRY_VERSION});
}

Result<std::optional<session::Hello>> Reception::turn_away(Error error) {
    if (cancelled_) {
        return std::unexpected(std::move(error));
    }
    std::ignore = channel_->send_within(session::Failure{.code = error.code, .text = error.to_string()}, farewell);
    config_.turned_away(error);
    drop();
    return std::nullopt;
}

void Reception::tell() {
    {
        const std::lock_guard lock{mutex_};
        const Way& way = ways_.at(way_);
        use_.connected = true;
        use_.candidate = way.candidate;
        use_.uri = way.uri;
        use_.name = way.name;
    }
    use_.connection = connection_->describe();
    use_.lanes = connection_->counters().lanes;
    config_.tell(use_);
}

void Reception::wake() {
    const std::lock_guard lock{mutex_};
    if (inbox_) {
        inbox_->wake();
    }
}

void Reception::drop() {
    std::unique_ptr<Inbox> inbox;
    {
        const std::lock_guard lock{mutex_};
        inbox = std::move(inbox_);
    }
    inbox.reset(); // its thread may have to be waited for
    const std::lock_guard lock{mutex_};
    channel_.reset();
    connection_.reset();
}

Error Reception::cause(const Error& seen) {
    {
        const std::lock_guard lock{mutex_};
        if (interrupted_) {
            return *interrupted_;
        }
    }
    return inbox_ ? inbox_->cause_of(seen) : seen;
}

bool Reception::interrupt(ErrorCode code, const std::string& text) {
    const std::lock_guard lock{mutex_};
    if (!connection_) {
        return false;
    }
    interrupted_ = make_error(code, "migrate", ways_.at(way_).uri, text);
    std::ignore = channel_->send_within(session::Failure{.code = code, .text = text}, short_farewell);
    connection_->cancel();
    return true;
}

void Reception::cancel(ErrorCode code, const std::string& text) {
    cancelled_ = true;
    const std::lock_guard lock{mutex_};
    if (connection_) {
        std::ignore = channel_->send_within(session::Failure{.code = code, .text = text}, short_farewell);
        connection_->cancel();
    }
    listeners_.cancel();
}

} // namespace pageferry::engine
