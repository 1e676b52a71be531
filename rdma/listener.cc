#include "rdma/listener.h"

#include "rdma/cm_event.h"
#include "rdma/dialer.h"
#include "rdma/memlock.h"
#include "transport/plugin/address.h"
#include "transport/plugin/events.h"

#include <netinet/in.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>

namespace pageferry::rdma {

namespace {

constexpr int backlog = 128;

void reject(rdma_cm_id* id, const Error& why) {
    const VerdictBytes said = encode_verdict(static_cast<int>(why.code), why.reason);
    (void)rdma_reject(id, said.bytes.data(), said.length); // a caller that has gone needs no answer
}

} // namespace

Outcome<std::unique_ptr<Listener>> Listener::listen(const std::string& uri, const pf_options& options) {
    auto parsed = parse_own_uri(uri);
    if (!parsed) {
        return failed(std::move(parsed.error()));
    }
    if (auto any = any_device(); !any) {
        any.error().operation = "listen";
        any.error().object = parsed->to_string();
        return failed(std::move(any.error()));
    }
    if (auto enough = check_memlock(options.memory_bytes); !enough) {
        return failed(std::move(enough.error()));
    }
    auto channel = make_event_channel(parsed->to_string());
    if (!channel) {
        return std::unexpected{std::move(channel.error())};
    }
    auto event = make_event();
    if (!event) {
        return failed(std::move(event.error()));
    }
    std::unique_ptr<Listener> listener{new Listener{std::move(*parsed), options, std::move(*event), std::move(*channel)}};
    if (auto bound = listener->bind(); !bound) {
        return std::unexpected{std::move(bound.error())};
    }
    return listener;
}

Outcome<void> Listener::bind() {
    auto endpoints = resolve(uri_, Purpose::listening, Deadline::in(options_.handshake_ms), -1);
    if (!endpoints) {
        endpoints.error().phase = 0;
        return std::unexpected{std::move(endpoints.error())};
    }
    std::optional<Fault> last;
    for (Endpoint& endpoint : *endpoints) {
        endpoint.set_port(uri_.port);
        rdma_cm_id* raw = nullptr;
        if (rdma_create_id(channel_.get(), &raw, nullptr, RDMA_PS_TCP) != 0) {
            return std::unexpected{call_fault(errno, "listen", uri_.to_string(), {}, 0)};
        }
        CmId id{raw};
        if (rdma_bind_addr(raw, endpoint.address()) != 0 || rdma_listen(raw, backlog) != 0) {
            const int error = errno;
            last = call_fault(error, "listen", uri_.to_string(), {}, 0);
            if (error == EADDRNOTAVAIL || error == ENODEV || error == EAFNOSUPPORT) {
                continue;
            }
            return std::unexpected{std::move(*last)};
        }
        uri_.port = ntohs(rdma_get_src_port(raw));
        ids_.push_back(std::move(id));
    }
    if (ids_.empty()) {
        return std::unexpected{std::move(*last)};
    }
    return {};
}

void Listener::cancel() {
    raise_event(event_.get());
}

Outcome<std::unique_ptr<Connection>> Listener::accept(const Deadline& deadline, std::optional<Fault>& rejected) {
    for (;;) {
        expire();
        Deadline next = deadline;
        for (const Group& group : groups_) {
            next = next.or_sooner(group.until);
        }
        const Wait waited = wait_for(channel_->fd, POLLIN, next, event_.get());
        if (waited == Wait::cancelled) {
            return failed(make_error(ErrorCode::cancelled, "accept", uri_.to_string(), "cancelled"));
        }
        if (waited == Wait::ready) {
            auto made = look();
            if (!made || *made) {
                return made;
            }
        }
        if (deadline.passed()) {
            expire();
            rejected = std::exchange(rejected_, std::nullopt);
            return std::unique_ptr<Connection>{};
        }
    }
}

Outcome<std::unique_ptr<Connection>> Listener::look() {
    rdma_cm_event* raw = nullptr;
    if (rdma_get_cm_event(channel_.get(), &raw) != 0) {
        if (errno == EAGAIN || errno == EINTR) {
            return std::unique_ptr<Connection>{};
        }
        return std::unexpected{call_fault(errno, "accept", uri_.to_string(), {}, 0)};
    }
    CmEvent event{raw};
    rdma_cm_event copy = *event;
    if (copy.event == RDMA_CM_EVENT_CONNECT_REQUEST) {
        request(copy);
        return std::unique_ptr<Connection>{};
    }
    // Acknowledged first: an id that has to go waits for that, and an id that moves to its connection's channel too.
    event.reset();
    copy.param = {}; // its private data has gone with it
    if (copy.listen_id == nullptr && std::ranges::any_of(ids_, [&](const CmId& id) { return id.get() == copy.id; })) {
        if (copy.event == RDMA_CM_EVENT_DEVICE_REMOVAL) {
            return std::unexpected{fault_of(copy, {}, 0)};
        }
        return std::unique_ptr<Connection>{};
    }
    return take(copy);
}

std::unique_ptr<Connection> Listener::take(const rdma_cm_event& event) {
    const auto group = group_of(event.id);
    if (group == groups_.end()) {
        return nullptr;
    }
    switch (event.event) {
    case RDMA_CM_EVENT_ESTABLISHED:
        group->set->find(event.id)->established = true;
        return group->set->whole() ? finish(group) : nullptr;
    case RDMA_CM_EVENT_TIMEWAIT_EXIT: return nullptr;
    default: turn_away(group, fault_of(event, group->peer, PF_PHASE_HANDSHAKE).error); return nullptr;
    }
}

Result<void> Listener::judge(const Request& request) const {
    const auto refuse = [](std::string reason) {
        return std::unexpected{make_error(ErrorCode::refused, "accept", "connection request", std::move(reason))};
    };
    const bool any = std::ranges::all_of(options_.session, [](std::uint8_t byte) { return byte == 0; });
    if (!any && !std::ranges::equal(request.session, options_.session)) {
        return refuse("this destination waits for another migration session");
    }
    if (request.epoch < options_.epoch) {
        return refuse("the connection is number " + std::to_string(request.epoch) + " of its session, and number " +
                      std::to_string(options_.epoch) + " or a later one is waited for");
    }
    return {};
}

void Listener::request(const rdma_cm_event& event) {
    CmId id{event.id};
    const std::string peer = address_text(rdma_get_peer_addr(event.id));
    const rdma_conn_param& parameters = event.param.conn;
    auto wanted =
        decode_request({static_cast<const std::byte*>(parameters.private_data), std::size_t{parameters.private_data_len}});
    Result<void> taken;
    if (!wanted) {
        taken = std::unexpected{std::move(wanted.error())};
    } else {
        taken = judge(*wanted);
        if (taken) {
            taken = welcome(*wanted, std::move(id), peer);
        }
    }
    if (!taken) {
        taken.error().peer = peer;
        if (id) {
            reject(id.get(), taken.error());
        }
        rejected_ = Fault{.error = std::move(taken.error())};
        // rdma_destroy_id() waits for every event of the id but this one, which is the listening id's.
    }
}

Result<Listener::Groups::iterator> Listener::group_of(const Request& request, const std::string& peer) {
    auto known = std::ranges::find_if(groups_, [&](const Group& group) {
        return group.first.connection == request.connection && group.first.session == request.session &&
               group.first.epoch == request.epoch && group.first.lanes == request.lanes;
    });
    if (request.kind != LaneKind::control) {
        if (known == groups_.end()) {
            return std::unexpected{
                make_error(ErrorCode::refused, "accept", "connection request",
                           "a lane of a connection that is not being made: it came too late, or its control lane never came")};
        }
        if (known->set->find(request.kind, request.index) != nullptr) {
            return std::unexpected{make_error(ErrorCode::refused, "accept", "connection request", "that lane is there already")};
        }
        return known;
    }
    if (known != groups_.end()) {
        return std::unexpected{
            make_error(ErrorCode::refused, "accept", "connection request", "that connection is being made already")};
    }
    if (groups_.size() >= max_groups) {
        turn_away(groups_.begin(), make_error(ErrorCode::resources, "accept", groups_.front().peer,
                                              "too many callers are in the middle of their handshake: the oldest had to go"));
    }
    auto channel = make_event_channel(uri_.to_string());
    if (!channel) {
        return std::unexpected{std::move(channel.error().error)};
    }
    groups_.push_back(Group{.first = request,
                            .peer = peer,
                            .set = Lanes{new LaneSet(std::move(*channel), request.lanes)},
                            .until = Clock::now() + std::chrono::milliseconds{options_.handshake_ms}});
    return std::prev(groups_.end());
}

Result<void> Listener::welcome(const Request& request, CmId id, std::string peer) {
    auto group = group_of(request, peer);
    if (!group) {
        reject(id.get(), group.error());
        return std::unexpected{std::move(group.error())};
    }
    rdma_cm_id* const raw = id.get();
    Result<void> taken = set_ack_timeout(raw, options_.dead_peer_ms);
    if (taken) {
        auto lane = (*group)->set->add(std::move(id), request.kind, request.index, std::move(peer));
        if (!lane) {
            taken = std::unexpected{std::move(lane.error())};
        }
    }
    if (taken) {
        rdma_conn_param parameters = connection_parameters((*group)->set->limits());
        const VerdictBytes said = encode_verdict(PF_OK, {});
        parameters.private_data = said.bytes.data();
        parameters.private_data_len = said.length;
        if (rdma_accept(raw, &parameters) != 0) {
            taken = std::unexpected{errno_error(errno, "rdma_accept", title_of(request.kind, request.index))};
        }
    }
    if (!taken) {
        if (id) {
            reject(id.get(), taken.error());
        }
        turn_away(*group, taken.error());
    }
    return taken;
}

Listener::Groups::iterator Listener::group_of(const rdma_cm_id* id) {
    return std::ranges::find_if(groups_, [&](const Group& group) { return group.set->find(id) != nullptr; });
}

std::unique_ptr<Connection> Listener::finish(const Groups::iterator& group) {
    Lanes set = std::move(group->set);
    const std::string peer = std::move(group->peer);
    groups_.erase(group);
    // From here on its events are its own. One that came meanwhile moves with it.
    for (const auto& lane : set->lanes()) {
        if (rdma_migrate_id(lane->id.get(), set->channel.get()) != 0) {
            Error error = errno_error(errno, "rdma_migrate_id", lane->name.title);
            error.peer = peer;
            rejected_ = Fault{.error = std::move(error)};
            return nullptr;
        }
    }
    auto made = Connection::accepted(std::move(set), options_);
    if (!made) {
        rejected_ = std::move(made.error());
        return nullptr;
    }
    return std::move(*made);
}

void Listener::turn_away(const Groups::iterator& group, Error why) {
    why.peer = group->peer;
    rejected_ = Fault{.error = std::move(why)};
    groups_.erase(group); // destroying its ids tells the peer
}

void Listener::expire() {
    const auto now = Clock::now();
    while (!groups_.empty() && groups_.front().until <= now) {
        turn_away(groups_.begin(),
                  make_error(ErrorCode::timed_out, "accept", groups_.front().peer, "it did not finish its handshake in time"));
    }
}

} // namespace pageferry::rdma
