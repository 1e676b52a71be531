// What a prober and `pageferry probe --listen` say to each other on a connection that is up: docs/protocol.md, Probes.
//
// Threads: one for each side.
#pragma once

#include "cli/probe_report.h"
#include "transport/connection.h"

#include <chrono>
#include <cstdint>
#include <functional>

namespace pageferry::cli {

inline constexpr std::uint64_t probe_scratch = std::uint64_t{16} << 20; // bytes that a prober pushes
inline constexpr std::uint64_t most_scratch = std::uint64_t{64} << 20;  // bytes that a listener shares at most

// The prober's side. Fills in peer, round trips and push; on failure failed_in and error. A destination that waits for a
// migration is told that nothing more comes, and is left as it was. timeout: of each answer.
void ask_peer(transport::Connection connection, const transport::SessionId& session_id, std::uint64_t scratch_bytes,
              std::chrono::milliseconds timeout, ProbeReport& report);

struct Answered {
    std::string peer; // as the connection describes it
    std::string software;
    std::uint64_t bytes = 0; // received and found right
    unsigned round_trips = 0;
};
// The listener's side, until the prober says goodbye. Errors: refused (it was no prober; it has been told), cancelled (stop()),
// else the connection's. The connection is closed when this returns.
Result<Answered> answer_peer(transport::Connection connection, const std::function<bool()>& stop);

} // namespace pageferry::cli
