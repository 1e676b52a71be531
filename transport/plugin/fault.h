// An error as the transport ABI tells it: what base/error.h holds, with the lane it happened on and the phase of connect().
//
// Threads: plain values, no shared state.
#pragma once

#include "base/error.h"
#include "transport/abi/pageferry_transport.h"

#include <cstdint>
#include <expected>

namespace pageferry::plugin {

struct Fault {
    Error error;
    std::uint32_t lane = PF_LANE_NONE; // 0 is control
    std::uint32_t phase = 0;           // enum pf_phase during connect(), else 0
};

template <class T>
using Outcome = std::expected<T, Fault>;

inline std::unexpected<Fault> failed(Error error, std::uint32_t lane = PF_LANE_NONE, std::uint32_t phase = 0) {
    return std::unexpected{Fault{.error = std::move(error), .lane = lane, .phase = phase}};
}

// Writes the fault into the caller's structure, no further than its size says; out may be null. Answers the enum pf_status.
int answer(pf_error* out, const Fault& fault);

// Sets *out to "no error", size kept; out may be null.
void clear(pf_error* out);

} // namespace pageferry::plugin
