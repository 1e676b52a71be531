#include "transport/session/channel.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace pageferry::transport::session {

namespace {

constexpr Milliseconds longest_interval{1000};

Milliseconds heartbeat_interval(Milliseconds dead_peer) {
    return std::clamp(dead_peer / 4, Milliseconds{1}, longest_interval);
}

std::string in_seconds(std::chrono::steady_clock::duration time) {
    const double seconds = std::chrono::duration<double>{time}.count();
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.1f s", seconds);
    return text.data();
}

} // namespace

Channel::Channel(Connection& connection, Milliseconds dead_peer)
    : connection_(connection), dead_peer_(dead_peer), interval_(heartbeat_interval(dead_peer)), peer_(connection.describe()),
      last_sent_(Clock::now().time_since_epoch().count()), last_look_(Clock::now()), buffer_(PF_CONTROL_MAX) {}

Result<void> Channel::send_within(const Message& message, Milliseconds timeout) {
    const auto bytes = encode(message);
    if (!bytes) {
        return std::unexpected{bytes.error()};
    }
    auto sent = connection_.send(*bytes, timeout);
    if (sent) {
        last_sent_.store(Clock::now().time_since_epoch().count(), std::memory_order_relaxed);
    }
    return sent;
}

Result<void> Channel::send(const Message& message) {
    auto sent = send_within(message, dead_peer_);
    if (!sent && sent.error().code == ErrorCode::again) {
        sent.error().code = ErrorCode::timed_out;
    }
    return sent;
}

Result<void> Channel::heartbeat_if_due() {
    const Clock::time_point last{Clock::duration{last_sent_.load(std::memory_order_relaxed)}};
    if (Clock::now() - last < interval_) {
        return {};
    }
    auto sent = send_within(Heartbeat{}, Milliseconds{0});
    const bool full = !sent && (sent.error().code == ErrorCode::again || sent.error().code == ErrorCode::timed_out);
    if (full) {
        // A lane that is full has something under way to the peer: that is as good, and the next look tries again.
        return {};
    }
    return sent;
}

Error Channel::silent() const {
    Error error = make_error(ErrorCode::timed_out, "receive", "control lane", "the peer said nothing for " + in_seconds(silence_),
                             "check that the peer still runs and that the network between the hosts is up");
    error.peer = peer_;
    return error;
}

Result<std::optional<Message>> Channel::take(std::span<const std::byte> bytes) {
    auto message = decode(bytes);
    if (!message) {
        message.error().peer = peer_;
        return std::unexpected{std::move(message.error())};
    }
    if (const auto* failure = std::get_if<Failure>(&*message)) {
        Error error = make_error(failure->code, "migration", "on the peer", failure->text);
        error.peer = peer_;
        peer_failed_.store(true, std::memory_order_release);
        return std::unexpected{std::move(error)};
    }
    return std::optional<Message>{*std::move(message)};
}

Result<std::optional<Message>> Channel::receive(Milliseconds timeout) {
    const Clock::time_point deadline = Clock::now() + std::clamp(timeout, Milliseconds{0}, Milliseconds{std::chrono::hours{24}});
    for (;;) {
        if (auto beat = heartbeat_if_due(); !beat) {
            return std::unexpected{std::move(beat.error())};
        }
        const auto left = std::chrono::ceil<Milliseconds>(deadline - Clock::now());
        const Milliseconds slice = std::clamp(left, Milliseconds{0}, interval_);
        const auto bytes = connection_.receive(buffer_, slice);
        if (!bytes) {
            return std::unexpected{bytes.error()};
        }
        const Clock::time_point now = Clock::now();
        // A process that was stopped, or busy elsewhere, has not heard a silence of that length.
        silence_ += std::min<Clock::duration>(now - last_look_, 2 * interval_);
        last_look_ = now;
        if (!bytes->empty()) {
            silence_ = {};
            auto message = take(*bytes);
            if (!message || !std::holds_alternative<Heartbeat>(**message)) {
                return message;
            }
        } else if (silence_ >= dead_peer_) {
            return std::unexpected{silent()};
        }
        // Heartbeats do not prolong the call.
        if (now >= deadline) {
            return std::optional<Message>{};
        }
    }
}

} // namespace pageferry::transport::session
