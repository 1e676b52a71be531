#include "rdma/abi.h"

#include "rdma/cm_event.h"
#include "rdma/connection.h"
#include "rdma/dialer.h"
#include "rdma/inspect.h"
#include "rdma/listener.h"
#include "transport/plugin/address.h"
#include "transport/plugin/events.h"
#include "transport/plugin/table.h"

#include <poll.h>

#include <cerrno>

namespace pageferry::rdma {

namespace {

constexpr std::int64_t probe_ms = 5000;   // for a name server, and for the peer's address to be resolved
constexpr std::int64_t resolve_ms = 2000; // of that; the connection manager says better than our own deadline why it took so long

// An address of this host has a device if an id can be bound to it; one of another host if it can be reached by one.
Outcome<void> look_at_address(const std::string& text) {
    auto uri = parse_own_uri(text);
    if (!uri) {
        return failed(std::move(uri.error()));
    }
    if (uri->host.empty()) {
        return {};
    }
    const Deadline deadline = Deadline::in(probe_ms);
    auto endpoints = resolve(*uri, Purpose::connecting, deadline, -1);
    if (!endpoints) {
        return std::unexpected{std::move(endpoints.error())};
    }
    auto channel = make_event_channel(uri->to_string());
    if (!channel) {
        return std::unexpected{std::move(channel.error())};
    }
    Outcome<void> result;
    for (Endpoint& endpoint : *endpoints) {
        const std::string name = endpoint.to_string();
        rdma_cm_id* raw = nullptr;
        if (rdma_create_id(channel->get(), &raw, nullptr, RDMA_PS_TCP) != 0) {
            return std::unexpected{call_fault(errno, "probe", name, {}, 0)};
        }
        const CmId id{raw};
        Endpoint local = endpoint;
        local.set_port(0);
        if (rdma_bind_addr(raw, local.address()) == 0) {
            // A wildcard or an address of ours; with a device, unless it is the wildcard.
            const bool wildcard = raw->verbs == nullptr && endpoint.is_any();
            if (raw->verbs != nullptr || wildcard) {
                return {};
            }
            result = std::unexpected{call_fault(ENODEV, "probe", name, {}, 0)};
            continue;
        }
        if (errno == ENODEV) {
            result = std::unexpected{call_fault(ENODEV, "probe", name, {}, 0)};
            continue;
        }
        if (rdma_resolve_addr(raw, nullptr, endpoint.address(), resolve_ms) != 0) {
            result = std::unexpected{call_fault(errno, "resolve address", name, name, PF_PHASE_RESOLVING_ADDRESS)};
            continue;
        }
        if (wait_for((*channel)->fd, POLLIN, deadline, -1) != Wait::ready) {
            result = failed(make_error(ErrorCode::timed_out, "resolve address", name, "no answer in time"));
            continue;
        }
        rdma_cm_event* event = nullptr;
        if (rdma_get_cm_event(channel->get(), &event) != 0) {
            result = std::unexpected{call_fault(errno, "probe", name, {}, 0)};
            continue;
        }
        const CmEvent owned{event};
        if (event->event == RDMA_CM_EVENT_ADDR_RESOLVED) {
            return {};
        }
        result = std::unexpected{fault_of(*event, name, PF_PHASE_RESOLVING_ADDRESS)};
    }
    return result;
}

Outcome<void> look(const char* uri) {
    if (auto any = any_device(); !any) {
        return failed(std::move(any.error()));
    }
    return uri == nullptr ? Outcome<void>{} : look_at_address(uri);
}

constexpr const char* schemes[] = {"rdma", nullptr};

constexpr pf_transport table = Table<Connection, Listener, look>::make(
    "rdma", "RDMA verbs: pages go straight from memory to memory", schemes, PF_TRAIT_PINS_MEMORY, inspect);

} // namespace

const pf_transport* transport_table(std::uint32_t host_abi_version) {
    return host_abi_version == PF_TRANSPORT_ABI_VERSION ? &table : nullptr;
}

} // namespace pageferry::rdma
