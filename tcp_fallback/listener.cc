#include "tcp_fallback/listener.h"
#include "tcp_fallback/address.h"

#include "tcp_fallback/sockets.h"
#include "transport/plugin/events.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

namespace pageferry::tcp {

namespace {

constexpr std::size_t most_callers = 128;

GroupRules rules_of(const pf_options& options) {
    GroupRules rules;
    std::copy_n(options.session, rules.session.size(), rules.session.begin());
    rules.epoch = options.epoch;
    rules.patience = std::chrono::milliseconds{options.handshake_ms};
    return rules;
}

Error not_one_of_us(ErrorCode code, std::string reason) {
    return make_error(code, "accept", "caller", std::move(reason));
}

} // namespace

Listener::Listener(transport::Uri uri, const pf_options& options, Fd event)
    : uri_(std::move(uri)), options_(options), event_(std::move(event)), groups_(rules_of(options)) {}

Outcome<std::unique_ptr<Listener>> Listener::listen(const std::string& uri, const pf_options& options) {
    auto parsed = parse_own_uri(uri);
    if (!parsed) {
        return failed(std::move(parsed.error()));
    }
    auto event = make_event();
    if (!event) {
        return failed(std::move(event.error()));
    }
    std::unique_ptr<Listener> listener{new Listener{std::move(*parsed), options, std::move(*event)}};
    auto bound = listener->uri_.scheme == "unix" ? listener->bind_unix() : listener->bind_tcp();
    if (!bound) {
        return std::unexpected{std::move(bound.error())};
    }
    return listener;
}

void Listener::cancel() {
    raise_event(event_.get());
}

std::vector<pollfd> Listener::watch() const {
    std::vector<pollfd> watched;
    const auto add = [&](int socket, short events) { watched.push_back(pollfd{.fd = socket, .events = events, .revents = 0}); };
    add(event_.get(), POLLIN);
    for (const Fd& socket : sockets_) {
        add(socket.get(), POLLIN);
    }
    for (const Caller& caller : callers_) {
        add(caller.socket.get(), POLLIN);
    }
    for (const int socket : groups_.sockets()) {
        add(socket, POLLRDHUP);
    }
    return watched;
}

Deadline Listener::next_look(const Deadline& deadline) const {
    Deadline next = deadline;
    if (!callers_.empty()) { // all have the same patience: the oldest is first
        next = next.or_sooner(callers_.front().until);
    }
    if (const auto expiry = groups_.next_expiry()) {
        next = next.or_sooner(*expiry);
    }
    return next;
}

Outcome<std::unique_ptr<Connection>> Listener::accept(const Deadline& deadline, std::optional<Fault>& rejected) {
    for (;;) {
        std::vector<pollfd> watched = watch();
        const int found = ::poll(watched.data(), watched.size(), next_look(deadline).poll_ms());
        if (found < 0 && errno != EINTR) {
            return failed(errno_error(errno, "poll", uri()));
        }
        if (found > 0 && watched.front().revents != 0) {
            return failed(make_error(ErrorCode::cancelled, "accept", uri(), "cancelled"));
        }
        if (found > 0) {
            auto connection = look(watched);
            if (!connection || *connection) {
                return connection;
            }
        }
        expire();
        // With time over, go on as long as there was something to do: accept(0) must get through a handshake that is all there.
        if (deadline.passed() && found <= 0) {
            rejected = std::exchange(rejected_, std::nullopt);
            return std::unique_ptr<Connection>{};
        }
    }
}

Outcome<std::unique_ptr<Connection>> Listener::look(const std::vector<pollfd>& watched) {
    const auto ready = [&](int socket) {
        return std::ranges::any_of(watched, [&](const pollfd& one) { return one.fd == socket && one.revents != 0; });
    };
    for (const int socket : groups_.sockets()) {
        if (ready(socket)) {
            if (auto dropped = groups_.drop(socket)) {
                const std::string name = peer_name(socket);
                for (Fd& lane : dropped->sockets) {
                    turn_away(std::move(lane), name, dropped->error, true);
                }
            }
        }
    }
    std::unique_ptr<Connection> whole;
    for (auto caller = callers_.begin(); caller != callers_.end() && !whole;) {
        if (ready(caller->socket.get())) {
            whole = hear(*caller);
        }
        caller = caller->socket ? std::next(caller) : callers_.erase(caller);
    }
    for (const Fd& socket : sockets_) {
        if (!whole && ready(socket.get())) {
            if (auto taken = take_callers(socket.get()); !taken) {
                return std::unexpected{std::move(taken.error())};
            }
        }
    }
    return whole;
}

Outcome<void> Listener::take_callers(int from) {
    for (;;) {
        Fd socket{::accept4(from, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)};
        if (!socket) {
            if (errno == EMFILE && !callers_.empty()) {
                turn_away_oldest();
                continue;
            }
            switch (errno) {
            case EMFILE:
            case ENFILE:
            case ENOBUFS:
            case ENOMEM:
            case EINVAL:
            case EBADF: return failed(errno_error(errno, "accept", uri(), "raise the limit on open files (ulimit -n)"));
            default: return {}; // nobody (EAGAIN), or an error of the caller that has gone again
            }
        }
        std::string name = peer_name(socket.get());
        std::array<std::byte, greeting_bytes> greeting{};
        encode_greeting(Greeting{}, greeting);
        if (send_now(socket.get(), greeting).bytes != greeting.size()) {
            turn_away(std::move(socket), name, not_one_of_us(ErrorCode::closed, "it went away before it was greeted"), false);
            continue;
        }
        callers_.push_back(Caller{.socket = std::move(socket),
                                  .name = std::move(name),
                                  .until = Clock::now() + std::chrono::milliseconds{options_.handshake_ms}});
        if (callers_.size() > most_callers) {
            turn_away_oldest();
        }
    }
}

std::unique_ptr<Connection> Listener::hear(Caller& caller) {
    const Transfer got = receive_now(caller.socket.get(), std::span{caller.said}.subspan(caller.have));
    if (got.ended || got.error != 0) {
        Error why = got.error != 0
                        ? errno_error(got.error, "accept", "caller")
                        : not_one_of_us(ErrorCode::closed,
                                        caller.have == 0 ? "it left without a word" : "it left in the middle of its handshake");
        turn_away(std::move(caller.socket), caller.name, std::move(why), false);
        return nullptr;
    }
    caller.have += got.bytes;
    const auto said = std::span{caller.said}.first(caller.have);
    if (auto stranger = name_stranger(said)) {
        turn_away(std::move(caller.socket), caller.name, not_one_of_us(ErrorCode::protocol, std::move(*stranger)), false);
        return nullptr;
    }
    if (caller.have < preamble_bytes) {
        return nullptr;
    }
    auto preamble = decode_preamble(said);
    if (!preamble) {
        turn_away(std::move(caller.socket), caller.name, std::move(preamble.error()), true);
        return nullptr;
    }
    auto joined = groups_.add(*preamble, caller.socket, Clock::now());
    if (!joined) {
        turn_away(std::move(caller.socket), caller.name, std::move(joined.error()), true);
        return nullptr;
    }
    std::optional<LaneSet>& whole = *joined;
    return whole ? welcome(std::move(*whole)) : nullptr;
}

std::unique_ptr<Connection> Listener::welcome(LaneSet lanes) {
    const int control = lanes.control.get();
    const std::string name = peer_name(control);
    const std::vector<std::byte> ready = encode_verdict(PF_OK, {});
    if (send_now(control, ready).bytes != ready.size()) {
        rejected_ = Fault{.error = not_one_of_us(ErrorCode::closed, "it went away at the end of its handshake")};
        rejected_->error.peer = name;
        return nullptr;
    }
    auto connection = Connection::accepted(std::move(lanes), options_);
    if (!connection) {
        rejected_ = std::move(connection.error());
        rejected_->error.peer = name;
        return nullptr;
    }
    return std::move(*connection);
}

void Listener::expire() {
    const auto now = Clock::now();
    while (!callers_.empty() && callers_.front().until <= now) {
        Caller late = std::move(callers_.front());
        callers_.pop_front();
        turn_away(std::move(late.socket), late.name,
                  not_one_of_us(ErrorCode::timed_out,
                                (late.have == 0 ? "it said nothing for " : "it did not finish its handshake within ") +
                                    std::to_string(options_.handshake_ms) + " ms"),
                  false);
    }
    for (Dropped& dropped : groups_.expire(now)) {
        for (Fd& socket : dropped.sockets) {
            const std::string name = peer_name(socket.get());
            turn_away(std::move(socket), name, dropped.error, true);
        }
    }
}

void Listener::turn_away_oldest() {
    Caller oldest = std::move(callers_.front());
    callers_.pop_front();
    turn_away(std::move(oldest.socket), oldest.name, not_one_of_us(ErrorCode::refused, "too many callers at once"), false);
}

void Listener::turn_away(Fd socket, const std::string& name, Error why, bool tell_it) {
    if (tell_it) {
        // To a new socket this always fits; a peer that is gone does not need it.
        (void)send_now(socket.get(), encode_verdict(static_cast<int>(why.code), why.reason));
    }
    why.peer = name;
    rejected_ = Fault{.error = std::move(why), .lane = PF_LANE_NONE, .phase = PF_PHASE_HANDSHAKE};
}

} // namespace pageferry::tcp
