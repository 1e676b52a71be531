#include "rdma/dialer.h"

#include "rdma/cm_event.h"
#include "rdma/memlock.h"
#include "rdma/pump.h"
#include "transport/plugin/address.h"
#include "transport/plugin/events.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace pageferry::rdma {

namespace {

constexpr std::uint8_t retries = 6; // 7 is taken as infinite by rdma_rxe
constexpr std::uint8_t rnr_retries = 6;

class Dialer {
public:
    Dialer(const pf_options& options, const Deadline& deadline, int cancel, const Tell& tell)
        : options_(options), deadline_(deadline), cancel_(cancel), tell_(tell) {}

    Outcome<Lanes> dial(Endpoint endpoint);

private:
    // A lane on its way: its id, until it has a queue pair and is the set's.
    struct Attempt {
        LaneKind kind = LaneKind::control;
        unsigned index = 0;
        CmId id;
        const rdma_cm_id* known = nullptr; // the same, also when the set owns it
        pf_phase phase = PF_PHASE_RESOLVING_ADDRESS;
        bool established = false;
    };

    Outcome<void> bring_up(std::vector<Attempt> attempts);
    Outcome<void> begin(Attempt& attempt);
    Outcome<void> take(std::vector<Attempt>& attempts, const rdma_cm_event& event);
    Outcome<void> connect(Attempt& attempt);
    Outcome<void> wait_for_event(const Deadline& step);
    void enter(const Attempt& attempt, pf_phase phase);
    [[nodiscard]] std::unexpected<Fault> fail(Error error) const;
    [[nodiscard]] Deadline step() const {
        return deadline_.or_sooner(Clock::now() + std::chrono::milliseconds{options_.dead_peer_ms});
    }

    const pf_options& options_;
    const Deadline deadline_;
    const int cancel_;
    const Tell& tell_;
    Endpoint endpoint_;
    std::string peer_;
    pf_phase phase_ = PF_PHASE_RESOLVING_ADDRESS;
    std::uint64_t connection_ = 0;
    Lanes set_;
};

std::unexpected<Fault> Dialer::fail(Error error) const {
    if (error.peer.empty()) {
        error.peer = peer_;
    }
    return failed(std::move(error), PF_LANE_NONE, phase_);
}

// The control lane's phases are the connection's; the others follow within the handshake.
void Dialer::enter(const Attempt& attempt, pf_phase phase) {
    if (attempt.kind == LaneKind::control) {
        phase_ = phase;
        tell_(phase, peer_);
    }
}

const char* step_name(pf_phase phase) {
    switch (phase) {
    case PF_PHASE_RESOLVING_ADDRESS: return "resolve address";
    case PF_PHASE_RESOLVING_ROUTE: return "resolve route";
    case PF_PHASE_CONNECTING: return "connect";
    default: return "connect further lanes";
    }
}

Outcome<void> Dialer::wait_for_event(const Deadline& step) {
    switch (wait_for(set_->channel->fd, POLLIN, step, cancel_)) {
    case Wait::ready: return {};
    case Wait::cancelled: return fail(make_error(ErrorCode::cancelled, step_name(phase_), peer_, "cancelled"));
    case Wait::timed_out: break;
    }
    const bool connecting = phase_ == PF_PHASE_CONNECTING || phase_ == PF_PHASE_HANDSHAKE;
    return fail(make_error(ErrorCode::timed_out, step_name(phase_), peer_,
                           connecting ? "the peer did not answer our request in time" : "no answer in time",
                           connecting
                               ? "check that the destination is waiting for a migration, and that UDP port 4791 is not blocked"
                               : "check the address, the cable, and that ping reaches it"));
}

Outcome<void> Dialer::begin(Attempt& attempt) {
    rdma_cm_id* id = nullptr;
    if (rdma_create_id(set_->channel.get(), &id, nullptr, RDMA_PS_TCP) != 0) {
        return std::unexpected{call_fault(errno, "rdma_create_id", title_of(attempt.kind, attempt.index), peer_, phase_)};
    }
    attempt.id.reset(id);
    attempt.known = id;
    enter(attempt, PF_PHASE_RESOLVING_ADDRESS);
    if (rdma_resolve_addr(id, nullptr, endpoint_.address(), step().poll_ms()) != 0) {
        return std::unexpected{call_fault(errno, "resolve address", peer_, peer_, PF_PHASE_RESOLVING_ADDRESS)};
    }
    return {};
}

Outcome<void> Dialer::connect(Attempt& attempt) {
    enter(attempt, PF_PHASE_CONNECTING);
    attempt.phase = PF_PHASE_CONNECTING;
    if (auto set = set_ack_timeout(attempt.id.get(), options_.dead_peer_ms); !set) {
        return fail(std::move(set.error()));
    }
    auto lane = set_->add(std::move(attempt.id), attempt.kind, attempt.index, peer_);
    if (!lane) {
        return fail(std::move(lane.error()));
    }
    Request request{.kind = attempt.kind,
                    .index = static_cast<std::uint8_t>(attempt.index),
                    .lanes = static_cast<std::uint8_t>(options_.lanes),
                    .session = {},
                    .epoch = options_.epoch,
                    .connection = connection_};
    std::ranges::copy(options_.session, request.session.begin());
    const auto said = encode(request);
    rdma_conn_param parameters = connection_parameters(set_->limits());
    parameters.private_data = said.data();
    parameters.private_data_len = static_cast<std::uint8_t>(said.size());
    if (rdma_connect((*lane)->id.get(), &parameters) != 0) {
        return std::unexpected{call_fault(errno, "connect", (*lane)->name.title, peer_, phase_)};
    }
    return {};
}

Outcome<void> Dialer::take(std::vector<Attempt>& attempts, const rdma_cm_event& event) {
    const auto found = std::ranges::find(attempts, static_cast<const rdma_cm_id*>(event.id), &Attempt::known);
    if (found == attempts.end()) { // of a lane that is up already
        if (event.event == RDMA_CM_EVENT_DISCONNECTED || event.event == RDMA_CM_EVENT_DEVICE_REMOVAL) {
            return std::unexpected{fault_of(event, peer_, phase_)};
        }
        return {};
    }
    Attempt& attempt = *found;
    if (event.event == RDMA_CM_EVENT_ADDR_RESOLVED && attempt.phase == PF_PHASE_RESOLVING_ADDRESS) {
        attempt.phase = PF_PHASE_RESOLVING_ROUTE;
        enter(attempt, PF_PHASE_RESOLVING_ROUTE);
        if (rdma_resolve_route(attempt.id.get(), step().poll_ms()) != 0) {
            return std::unexpected{call_fault(errno, "resolve route", peer_, peer_, phase_)};
        }
        return {};
    }
    if (event.event == RDMA_CM_EVENT_ROUTE_RESOLVED && attempt.phase == PF_PHASE_RESOLVING_ROUTE) {
        return connect(attempt);
    }
    if (event.event == RDMA_CM_EVENT_ESTABLISHED && attempt.phase == PF_PHASE_CONNECTING) {
        const rdma_conn_param& said = event.param.conn;
        if (!decode_verdict({static_cast<const std::byte*>(said.private_data), std::size_t{said.private_data_len}})) {
            return fail(make_error(ErrorCode::protocol, "connect", peer_,
                                   "the program that listens there does not speak Pageferry's protocol", "check the port"));
        }
        attempt.established = true;
        set_->find(attempt.known)->established = true;
        return {};
    }
    return std::unexpected{fault_of(event, peer_, phase_)};
}

Outcome<void> Dialer::bring_up(std::vector<Attempt> attempts) {
    for (Attempt& attempt : attempts) {
        if (auto begun = begin(attempt); !begun) {
            return begun;
        }
    }
    pf_phase before = phase_;
    Deadline limit = step();
    while (!std::ranges::all_of(attempts, &Attempt::established)) {
        if (phase_ != before) {
            before = phase_;
            limit = step();
        }
        if (auto waited = wait_for_event(limit); !waited) {
            return waited;
        }
        rdma_cm_event* raw = nullptr;
        if (rdma_get_cm_event(set_->channel.get(), &raw) != 0) {
            if (errno == EAGAIN || errno == EINTR) {
                continue;
            }
            return std::unexpected{call_fault(errno, "get event", "RDMA connection manager", peer_, phase_)};
        }
        const CmEvent event{raw};
        if (auto taken = take(attempts, *event); !taken) {
            return taken;
        }
    }
    return {};
}

Outcome<Lanes> Dialer::dial(Endpoint endpoint) {
    endpoint_ = endpoint;
    peer_ = endpoint_.to_string();
    phase_ = PF_PHASE_RESOLVING_ADDRESS;
    auto channel = make_event_channel(peer_);
    if (!channel) {
        channel.error().phase = phase_;
        channel.error().error.peer = peer_;
        return std::unexpected{std::move(channel.error())};
    }
    set_.reset(new LaneSet(std::move(*channel), options_.lanes));
    if (::getrandom(&connection_, sizeof connection_, 0) != ssize_t{sizeof connection_}) {
        return fail(errno_error(errno, "getrandom"));
    }
    // Alone first: only a peer that has taken it gets more.
    std::vector<Attempt> first(1);
    if (auto up = bring_up(std::move(first)); !up) {
        return std::unexpected{std::move(up.error())};
    }
    phase_ = PF_PHASE_HANDSHAKE;
    tell_(phase_, set_->find(LaneKind::control, 0)->name.device);
    std::vector<Attempt> more(options_.lanes + std::size_t{2});
    more[0].kind = LaneKind::service;
    more[1].kind = LaneKind::urgent;
    for (unsigned i = 0; i < options_.lanes; ++i) {
        more[i + 2].kind = LaneKind::bulk;
        more[i + 2].index = i;
    }
    if (auto up = bring_up(std::move(more)); !up) {
        return std::unexpected{std::move(up.error())};
    }
    return std::move(set_);
}

} // namespace

Result<transport::Uri> parse_own_uri(std::string_view text) {
    auto uri = transport::parse_uri(text);
    if (uri && uri->scheme != "rdma") {
        return std::unexpected{make_error(ErrorCode::invalid_argument, "parse URI", uri->to_string(),
                                          "this transport does not serve the scheme \"" + uri->scheme + "\"",
                                          "write rdma:HOST:PORT")};
    }
    return uri;
}

rdma_conn_param connection_parameters(const DeviceLimits& limits) {
    rdma_conn_param parameters{};
    parameters.responder_resources = limits.max_rd_atomic;
    parameters.initiator_depth = limits.max_init_rd_atomic;
    parameters.retry_count = retries;
    parameters.rnr_retry_count = rnr_retries;
    return parameters;
}

Result<void> set_ack_timeout(rdma_cm_id* id, std::uint32_t dead_peer_ms) {
    // 4.096 us * 2^timeout for each of the first try and the retries (InfiniBand Architecture Specification, volume
    // 1, 9.7.6.1.3).
    std::uint8_t timeout = 8;
    const auto whole_us = [](std::uint8_t exponent) { return 4.096 * static_cast<double>(1U << exponent) * (retries + 1); };
    while (timeout < 20 && whole_us(static_cast<std::uint8_t>(timeout + 1)) <= 600.0 * dead_peer_ms) {
        ++timeout;
    }
    if (rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, sizeof timeout) != 0 && errno != ENOSYS &&
        errno != EINVAL) { // a kernel before 5.2 has only its own
        return std::unexpected{errno_error(errno, "rdma_set_option", "ack timeout")};
    }
    return {};
}

Outcome<EventChannel> make_event_channel(const std::string& object) {
    EventChannel channel{rdma_create_event_channel()};
    if (!channel) {
        const int error = errno;
        if (auto any = any_device(); !any) {
            return failed(std::move(any.error()));
        }
        return failed(
            errno_error(error, "rdma_create_event_channel", object, "modprobe rdma_ucm, and check /dev/infiniband/rdma_cm"));
    }
    if (auto set = set_nonblocking(channel->fd); !set) {
        return failed(std::move(set.error()));
    }
    return channel;
}

std::string address_text(const sockaddr* address) {
    Endpoint endpoint;
    endpoint.length = address->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    std::memcpy(&endpoint.storage, address, endpoint.length);
    return endpoint.to_string();
}

Outcome<Lanes> dial(const transport::Uri& uri, const pf_options& options, const Deadline& deadline, int cancel,
                    const Tell& tell) {
    tell(PF_PHASE_RESOLVING_ADDRESS, uri.host);
    if (auto any = any_device(); !any) {
        return failed(std::move(any.error()), PF_LANE_NONE, PF_PHASE_RESOLVING_ADDRESS);
    }
    if (auto enough = check_memlock(options.memory_bytes); !enough) {
        return failed(std::move(enough.error()), PF_LANE_NONE, PF_PHASE_RESOLVING_ADDRESS);
    }
    auto endpoints = resolve(uri, Purpose::connecting, deadline, cancel);
    if (!endpoints) {
        return std::unexpected{std::move(endpoints.error())};
    }
    Outcome<Lanes> result;
    for (const Endpoint& endpoint : *endpoints) {
        result = Dialer{options, deadline, cancel, tell}.dial(endpoint);
        const bool final = result || result.error().error.code == ErrorCode::cancelled || deadline.passed();
        if (final) {
            break;
        }
    }
    return result;
}

} // namespace pageferry::rdma
