// The calling side of connection setup: address resolution, route resolution, connect, established, for the control lane and then
// for all the others at once; every step asynchronous, with a deadline of its own, and ended at once by a cancel.
#pragma once

#include "rdma/kit.h"
#include "rdma/lane_set.h"
#include "rdma/reaper.h"
#include "transport/abi/pageferry_transport.h"
#include "transport/plugin/deadline.h"
#include "transport/plugin/fault.h"
#include "transport/uri.h"

#include <functional>
#include <memory>
#include <string>

namespace pageferry::rdma {

using Tell = std::function<void(pf_phase phase, const std::string& detail)>;

// A whole set of lanes, on the channel of its own. No step takes longer than options.dead_peer_ms. cancel is a descriptor that is
// readable once it is called off. Addresses of a name are tried in turn.
Outcome<Lanes> dial(const transport::Uri& uri, const pf_options& options, const Deadline& deadline, int cancel, const Tell& tell);

// An "rdma" URI. invalid_argument: malformed, or of another scheme.
Result<transport::Uri> parse_own_uri(std::string_view text);

// The parameters of a connection: bounded retries (7 would be for ever on some devices), and as many READs as both devices can.
rdma_conn_param connection_parameters(const DeviceLimits& limits);
// How long the device waits for an acknowledgement before it retries: all its retries together fit into dead_peer_ms. To be set
// before the id connects or accepts.
Result<void> set_ack_timeout(rdma_cm_id* id, std::uint32_t dead_peer_ms);

// The event channel, non-blocking. not_found: no RDMA on this host, with what to do.
Outcome<EventChannel> make_event_channel(const std::string& object);
// "10.77.0.1:4444"
std::string address_text(const sockaddr* address);

} // namespace pageferry::rdma
