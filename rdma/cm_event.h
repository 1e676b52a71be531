// What the connection manager tells, in words: each event by its name, a rejection by its reason.
//
// Pure functions; any thread.
#pragma once

#include "rdma/handshake.h"
#include "rdma/kit.h"
#include "transport/plugin/fault.h"

#include <rdma/rdma_cma.h>

#include <span>
#include <string>

namespace pageferry::rdma {

// "RDMA_CM_EVENT_REJECTED"
std::string name_of(rdma_cm_event_type type);

// The fault that an event in place of the awaited one means. peer: for people. phase: of connect(), 0 on an established
// connection.
Fault fault_of(const rdma_cm_event& event, const std::string& peer, std::uint32_t phase);

// What a failed call of the connection manager means; operation is its name without "rdma_".
Fault call_fault(int error, const char* operation, const std::string& object, const std::string& peer, std::uint32_t phase);

} // namespace pageferry::rdma
