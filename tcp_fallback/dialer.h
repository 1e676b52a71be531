// The calling side of setting up a connection: addresses, sockets, handshake (handshake.h).
//
// Threads: the caller's; it waits in poll(2) only, so a deadline or a cancel ends it at once.
#pragma once

#include "tcp_fallback/kit.h"
#include "tcp_fallback/lane_groups.h"
#include "transport/plugin/deadline.h"
#include "transport/plugin/fault.h"
#include "transport/uri.h"

#include <functional>
#include <string>

namespace pageferry::tcp {

using Tell = std::function<void(pf_phase phase, const std::string& detail)>;

// All sockets of a connection, agreed with the peer, non-blocking. The event descriptor cancel ends it early.
// The fault names the phase. refused: nobody listens, or the peer said no, with its words. timed_out: the network, or a peer that
// accepted and did not greet (perhaps plain QEMU); it was sent nothing. protocol, version: it greets, but not as we know it.
Outcome<LaneSet> dial(const transport::Uri& uri, const pf_options& options, const Deadline& deadline, int cancel,
                      const Tell& tell);

} // namespace pageferry::tcp
