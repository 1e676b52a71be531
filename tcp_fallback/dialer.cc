#include "tcp_fallback/dialer.h"
#include "tcp_fallback/address.h"

#include "tcp_fallback/handshake.h"
#include "tcp_fallback/sockets.h"
#include "transport/plugin/events.h"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

namespace pageferry::tcp {

namespace {

constexpr const char* drop_in = "start the destination with \"pageferry qemu\"";

class Dialer {
public:
    Dialer(const transport::Uri& uri, const pf_options& options, const Deadline& deadline, int cancel, const Tell& tell)
        : uri_(uri), options_(options), deadline_(deadline), cancel_(cancel), tell_(tell) {}

    Outcome<LaneSet> dial();

private:
    Outcome<std::vector<Endpoint>> addresses();
    Outcome<Fd> reach_any(std::vector<Endpoint> endpoints);
    Outcome<Fd> begin(const Endpoint& endpoint);
    Outcome<void> finish_connecting(int socket, const Deadline& deadline);
    Outcome<Fd> next_lane();

    Outcome<std::uint16_t> await_greeting(int socket);
    Outcome<void> introduce(int socket, const Preamble& preamble);
    Outcome<void> await_verdict(int socket, const Deadline& deadline);
    Outcome<void> read(int socket, std::span<std::byte> into, const Deadline& deadline, const char* awaited);
    // What the peer said of it, if it said anything: better than "connection reset" on another lane.
    Fault explain(Fault fault);

    std::unexpected<Fault> fail(Error error) {
        error.peer = peer_;
        return failed(std::move(error), PF_LANE_NONE, phase_);
    }
    std::unexpected<Fault> fail(ErrorCode code, std::string reason, std::string remedy = {}) {
        return fail(make_error(code, operation(), uri_.to_string(), std::move(reason), std::move(remedy)));
    }
    std::unexpected<Fault> fail(int error);
    [[nodiscard]] const char* operation() const { return phase_ == PF_PHASE_HANDSHAKE ? "handshake" : "connect"; }
    void enter(pf_phase phase, const std::string& detail) {
        phase_ = phase;
        tell_(phase, detail);
    }

    const transport::Uri& uri_;
    const pf_options& options_;
    const Deadline deadline_;
    const int cancel_;
    const Tell& tell_;
    std::uint32_t phase_ = PF_PHASE_CONNECTING;
    Endpoint endpoint_; // the one that answered
    std::string peer_;
    LaneSet set_;
};

std::unexpected<Fault> Dialer::fail(int error) {
    std::string remedy;
    switch (error) {
    case ECONNREFUSED:
    case ENOENT:
        remedy =
            "nobody listens there: start the destination first, under Pageferry (plain QEMU listens for one connection only), "
            "and check host and port";
        break;
    case ENETUNREACH:
    case EHOSTUNREACH: remedy = "check the address and this host's routes"; break;
    case EMFILE: remedy = "raise the limit on open files (ulimit -n)"; break;
    default: break;
    }
    return fail(errno_error(error, operation(), uri_.to_string(), std::move(remedy)));
}

Outcome<std::vector<Endpoint>> Dialer::addresses() {
    if (uri_.scheme == "unix") {
        auto endpoint = unix_endpoint(uri_);
        if (!endpoint) {
            return fail(std::move(endpoint.error()));
        }
        return std::vector{*endpoint};
    }
    enter(PF_PHASE_RESOLVING_ADDRESS, uri_.host);
    if (uri_.port == 0) {
        return fail(ErrorCode::invalid_argument, "port 0 cannot be connected to", "give the port the destination listens on");
    }
    return resolve(uri_, Purpose::connecting, deadline_, cancel_);
}

Outcome<Fd> Dialer::begin(const Endpoint& endpoint) {
    Fd socket{::socket(endpoint.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    if (!socket) {
        return fail(errno);
    }
    if (auto set = set_options(socket.get(), options_.dead_peer_ms); !set) {
        return fail(std::move(set.error()));
    }
    // EAGAIN: a unix listener whose backlog is full; the caller tries again.
    if (::connect(socket.get(), endpoint.address(), endpoint.length) != 0 && errno != EINPROGRESS) {
        return fail(errno);
    }
    return socket;
}

Outcome<void> Dialer::finish_connecting(int socket, const Deadline& deadline) {
    switch (wait_for(socket, POLLOUT, deadline, cancel_)) {
    case Wait::cancelled: return fail(ErrorCode::cancelled, "cancelled");
    case Wait::timed_out:
        return fail(ErrorCode::timed_out, "the host does not answer", "check that it is up and that no firewall drops the port");
    case Wait::ready: break;
    }
    int error = 0;
    socklen_t size = sizeof error;
    if (::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) != 0) {
        error = errno;
    }
    if (error != 0) {
        return fail(error);
    }
    return {};
}

Outcome<Fd> Dialer::reach_any(std::vector<Endpoint> endpoints) {
    Outcome<Fd> result = fail(ErrorCode::timed_out, "no time left to connect");
    for (std::size_t i = 0; i < endpoints.size() && !deadline_.passed(); ++i) {
        endpoint_ = endpoints[i];
        peer_ = endpoint_.to_string();
        enter(PF_PHASE_CONNECTING, peer_);
        // An address that does not answer must leave time for the others.
        const auto share = (deadline_.at() - Clock::now()) / static_cast<std::int64_t>(endpoints.size() - i);
        const Deadline until{Clock::now() + share};
        for (;;) {
            result = begin(endpoint_);
            if (result || result.error().error.native != EAGAIN) {
                break;
            }
            if (const Wait waited = wait_for(-1, 0, until.or_sooner(Clock::now() + std::chrono::milliseconds{10}), cancel_);
                waited == Wait::cancelled) {
                return fail(ErrorCode::cancelled, "cancelled");
            }
            if (until.passed()) {
                result = fail(ErrorCode::timed_out, "the listener's backlog is full");
                break;
            }
        }
        if (result) {
            auto done = finish_connecting(result->get(), until);
            if (done) {
                return result;
            }
            result = std::unexpected{std::move(done.error())};
            if (result.error().error.code == ErrorCode::cancelled) {
                return result;
            }
        }
    }
    return result;
}

Outcome<Fd> Dialer::next_lane() {
    auto socket = begin(endpoint_);
    // Many lanes at once may fill a unix listener's backlog: it empties as the peer accepts.
    while (!socket && socket.error().error.native == EAGAIN && !deadline_.passed()) {
        if (wait_for(-1, 0, deadline_.or_sooner(Clock::now() + std::chrono::milliseconds{10}), cancel_) == Wait::cancelled) {
            return fail(ErrorCode::cancelled, "cancelled");
        }
        socket = begin(endpoint_);
    }
    return socket;
}

Outcome<void> Dialer::read(int socket, std::span<std::byte> into, const Deadline& deadline, const char* awaited) {
    bool any = false;
    while (!into.empty()) {
        const Transfer got = receive_now(socket, into);
        if (got.error != 0) {
            return fail(got.error);
        }
        if (got.ended) {
            return fail(ErrorCode::closed, std::string{"the peer closed the connection where its "} + awaited + " was due");
        }
        into = into.subspan(got.bytes);
        any = any || got.bytes > 0;
        if (got.bytes > 0) {
            continue;
        }
        switch (wait_for(socket, POLLIN, deadline, cancel_)) {
        case Wait::ready: break;
        case Wait::cancelled: return fail(ErrorCode::cancelled, "cancelled");
        case Wait::timed_out:
            if (!any && std::string_view{awaited} == "greeting") {
                return fail(ErrorCode::timed_out, "the peer accepted but did not greet: is it plain QEMU?", drop_in);
            }
            return fail(ErrorCode::timed_out, std::string{"the peer's "} + awaited + " did not come in time");
        }
    }
    return {};
}

Outcome<std::uint16_t> Dialer::await_greeting(int socket) {
    std::array<std::byte, greeting_bytes> bytes{};
    if (auto got = read(socket, bytes, deadline_, "greeting"); !got) {
        return std::unexpected{std::move(got.error())};
    }
    auto greeting = decode_greeting(bytes);
    if (!greeting) {
        greeting.error().remedy = drop_in;
        return fail(std::move(greeting.error()));
    }
    auto version = choose_version(*greeting);
    if (!version) {
        return fail(std::move(version.error()));
    }
    return *version;
}

Outcome<void> Dialer::introduce(int socket, const Preamble& preamble) {
    std::array<std::byte, preamble_bytes> bytes{};
    encode_preamble(preamble, bytes);
    const Transfer sent = send_now(socket, bytes);
    if (sent.error != 0) {
        return fail(sent.error);
    }
    if (sent.bytes != bytes.size()) { // a new socket holds far more
        return fail(ErrorCode::resources, "the kernel has no room for the handshake");
    }
    return {};
}

Outcome<void> Dialer::await_verdict(int socket, const Deadline& deadline) {
    std::array<std::byte, verdict_bytes> bytes{};
    if (auto got = read(socket, bytes, deadline, "verdict"); !got) {
        return got;
    }
    auto verdict = decode_verdict(bytes);
    if (!verdict) {
        return fail(std::move(verdict.error()));
    }
    if (verdict->status == PF_OK) {
        return {};
    }
    std::vector<std::byte> text(verdict->text_length);
    if (auto got = read(socket, text, deadline, "reason"); !got) {
        return got;
    }
    const auto code = verdict->status == PF_VERSION ? ErrorCode::version : ErrorCode::refused;
    return fail(code, "the peer refused: " + printable(text));
}

Fault Dialer::explain(Fault fault) {
    if (fault.error.code != ErrorCode::closed && fault.error.code != ErrorCode::refused && fault.error.code != ErrorCode::io) {
        return fault;
    }
    auto said = await_verdict(set_.control.get(), Deadline::in(0));
    if (!said && (said.error().error.code == ErrorCode::refused || said.error().error.code == ErrorCode::version)) {
        return std::move(said.error());
    }
    return fault;
}

Outcome<LaneSet> Dialer::dial() {
    auto endpoints = addresses();
    if (!endpoints) {
        return std::unexpected{std::move(endpoints.error())};
    }
    auto control = reach_any(std::move(*endpoints));
    if (!control) {
        return std::unexpected{std::move(control.error())};
    }
    set_.control = std::move(*control);

    enter(PF_PHASE_HANDSHAKE, peer_);
    Preamble preamble;
    preamble.lanes = static_cast<std::uint16_t>(options_.lanes);
    preamble.epoch = options_.epoch;
    std::copy_n(options_.session, preamble.session.size(), preamble.session.begin());
    if (::getrandom(preamble.connection.data(), preamble.connection.size(), 0) != ssize_t{16}) {
        return fail(errno);
    }
    // Alone first: only a peer that has greeted gets more connections.
    auto version = await_greeting(set_.control.get());
    if (!version) {
        return std::unexpected{std::move(version.error())};
    }
    preamble.version = *version;
    if (auto met = introduce(set_.control.get(), preamble); !met) {
        return std::unexpected{std::move(met.error())};
    }
    for (unsigned i = 0; i <= options_.lanes; ++i) {
        auto socket = next_lane();
        if (!socket) {
            return std::unexpected{explain(std::move(socket.error()))};
        }
        (i < options_.lanes ? set_.bulk.emplace_back() : set_.urgent) = std::move(*socket);
    }
    const auto lane = [this](unsigned i) { return i < options_.lanes ? set_.bulk[i].get() : set_.urgent.get(); };
    // What they say in greeting is known: each is introduced at once, and its greeting read behind that, a round trip less.
    for (unsigned i = 0; i <= options_.lanes; ++i) {
        const bool bulk = i < options_.lanes;
        const int socket = lane(i);
        preamble.kind = bulk ? LaneKind::bulk : LaneKind::urgent;
        preamble.index = static_cast<std::uint16_t>(bulk ? i : 0);
        auto met = finish_connecting(socket, deadline_);
        if (met) {
            met = introduce(socket, preamble);
        }
        if (!met) {
            return std::unexpected{explain(std::move(met.error()))};
        }
    }
    for (unsigned i = 0; i <= options_.lanes; ++i) {
        auto met = await_greeting(lane(i));
        if (met && *met != preamble.version) {
            met = fail(ErrorCode::protocol, "its lanes greet with different versions");
        }
        if (!met) {
            return std::unexpected{explain(std::move(met.error()))};
        }
    }
    if (auto ready = await_verdict(set_.control.get(), deadline_); !ready) {
        return std::unexpected{std::move(ready.error())};
    }
    set_.agreed = preamble;
    return std::move(set_);
}

} // namespace

Outcome<LaneSet> dial(const transport::Uri& uri, const pf_options& options, const Deadline& deadline, int cancel,
                      const Tell& tell) {
    return Dialer{uri, options, deadline, cancel, tell}.dial();
}

} // namespace pageferry::tcp
