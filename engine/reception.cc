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

Result<std::unique_ptr<Reception::Caller>> Reception::accept(milliseconds wait) {
    std::vector<Error> strangers;
    auto accepted = listeners_.accept(wait, strangers);
    for (const Error& stranger : strangers) {
        config_.turned_away(stranger);
    }
    if (!accepted) {
        return std::unexpected(std::move(accepted.error()));
    }
    if (!*accepted) {
        return std::unique_ptr<Caller>{};
    }
    return std::make_unique<Caller>(std::move(**accepted), config_.options.dead_peer);
}

// It has not been answered yet. timed_out: it said nothing.
Result<session::Hello> Reception::read_hello(Caller& caller, milliseconds wait) {
    auto first = caller.inbox.wait(wait);
    if (!first) {
        return std::unexpected(caller.inbox.cause_of(first.error()));
    }
    if (!*first) {
        return std::unexpected(make_error(ErrorCode::timed_out, "wait for", "Hello", "the peer connected and said nothing"));
    }
    auto* hello = std::get_if<session::Hello>(&**first);
    if (hello == nullptr || hello->role != session::Role::source) {
        return std::unexpected(unexpected_message(**first, "hello"));
    }
    if (auto version = session::agree_version(*hello); !version) {
        return std::unexpected(std::move(version.error()));
    }
    return std::move(*hello);
}

Result<std::optional<session::Hello>> Reception::next() {
    drop();
    std::unique_ptr<Caller> caller;
    std::optional<session::Hello> hello;
    {
        const std::lock_guard lock{mutex_};
        caller = std::move(at_the_door_);
        hello = std::exchange(hello_at_the_door_, {});
    }
    if (!caller) {
        auto accepted = accept(accept_wait);
        if (!accepted) {
            return std::unexpected(std::move(accepted.error()));
        }
        if (!*accepted) {
            return std::nullopt;
        }
        caller = std::move(*accepted);
    }
    {
        const std::lock_guard lock{mutex_};
        interrupted_.reset();
        way_ = caller->way;
        present_ = std::move(caller);
        if (cancelled_) {
            present_->connection.cancel();
        }
    }
    if (hello) {
        return hello;
    }
    auto said = read_hello(*present_, std::min<milliseconds>(config_.options.handshake, hello_wait));
    if (!said) {
        return turn_away(said.error());
    }
    return std::move(*said);
}

bool Reception::comes_again(const transport::SessionId& session, std::uint32_t epoch) {
    if (!at_the_door_) {
        auto caller = accept(milliseconds{0});
        if (!caller || !*caller) { // where nobody can come any more, next() says so
            return false;
        }
        const std::lock_guard lock{mutex_};
        at_the_door_ = std::move(*caller);
        if (cancelled_) {
            at_the_door_->connection.cancel();
        }
    }
    auto hello = read_hello(*at_the_door_, milliseconds{0});
    if (!hello && hello.error().code == ErrorCode::timed_out &&
        std::chrono::steady_clock::now() < at_the_door_->since + std::min<milliseconds>(config_.options.handshake, hello_wait)) {
        return false;
    }
    std::unique_ptr<Caller> other;
    {
        const std::lock_guard lock{mutex_};
        if (hello && hello->session == session && hello->epoch > epoch) {
            hello_at_the_door_ = std::move(*hello);
            return true;
        }
        other = std::move(at_the_door_);
    }
    send_away(std::move(other),
              hello ? make_error(ErrorCode::refused, "hello", uri(), "this destination has a source already") : hello.error());
    return false;
}

Result<void> Reception::welcome(const session::Hello& hello) {
    const auto version = session::agree_version(hello);
    if (!version) {
        return std::unexpected(version.error());
    }
    return present_->channel.send(session::HelloReply{.version = *version,
                                                      .session = hello.session,
                                                      .epoch = hello.epoch,
                                                      .role = session::Role::destination,
                                                      .features = hello.features & config_.features,
                                                      .software = "pageferry " PAGEFERRY_VERSION});
}

void Reception::send_away(std::unique_ptr<Caller> caller, const Error& error) {
    std::ignore = caller->channel.send_within(session::Failure{.code = error.code, .text = error.to_string()}, farewell);
    config_.turned_away(error);
}

Result<std::optional<session::Hello>> Reception::turn_away(Error error) {
    if (cancelled_) {
        return std::unexpected(std::move(error));
    }
    std::unique_ptr<Caller> caller;
    {
        const std::lock_guard lock{mutex_};
        caller = std::move(present_);
    }
    send_away(std::move(caller), error);
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
    use_.connection = present_->connection.describe();
    use_.lanes = present_->connection.counters().lanes;
    config_.tell(use_);
}

void Reception::wake() {
    const std::lock_guard lock{mutex_};
    if (present_) {
        present_->inbox.wake();
    }
}

void Reception::drop() {
    std::unique_ptr<Caller> gone; // not under the lock: its thread may have to be waited for
    const std::lock_guard lock{mutex_};
    gone = std::move(present_);
}

Error Reception::cause(const Error& seen) {
    {
        const std::lock_guard lock{mutex_};
        if (interrupted_) {
            return *interrupted_;
        }
    }
    return present_ ? present_->inbox.cause_of(seen) : seen;
}

bool Reception::interrupt(ErrorCode code, const std::string& text) {
    const std::lock_guard lock{mutex_};
    if (!present_) {
        return false;
    }
    interrupted_ = make_error(code, "migrate", ways_.at(way_).uri, text);
    std::ignore = present_->channel.send_within(session::Failure{.code = code, .text = text}, short_farewell);
    present_->connection.cancel();
    return true;
}

void Reception::cancel(ErrorCode code, const std::string& text) {
    cancelled_ = true;
    const std::lock_guard lock{mutex_};
    for (Caller* const caller : {present_.get(), at_the_door_.get()}) {
        if (caller != nullptr) {
            std::ignore = caller->channel.send_within(session::Failure{.code = code, .text = text}, short_farewell);
            caller->connection.cancel();
        }
    }
    listeners_.cancel();
}

} // namespace pageferry::engine
