// The answer to query-migrate, in QEMU's fields (qapi/migration.json, MigrationInfo), from what the migration's parts know.
// Figures are read once each: the mover writes them, and may write anything.
//
// Pure; any thread.
#pragma once

#include "engine/control_page.h"
#include "hypervisor/link/transport_report.h"
#include "hypervisor/monitor_process/state_history.h"
#include "statemachine/status.h"

#include <nlohmann/json_fwd.hpp>

#include <chrono>
#include <span>
#include <string>

namespace pageferry::hypervisor {

struct MigrationView {
    statemachine::Side side = statemachine::Side::source;
    statemachine::Status status = statemachine::Status::none;
    std::string error;                          // text of what failed
    std::chrono::milliseconds total_time{};     // from the start, to the end or now
    const engine::Progress* progress = nullptr; // ram_transferred: what was pushed, without what was pulled
    const engine::Postcopy* postcopy = nullptr; // null as long as the migration was not switched to postcopy
    bool postcopy_blocktime = false;            // the capability is on
    std::span<const std::string> blocked_reasons;
    std::span<const std::string> listening; // destination: the URIs it listens on, with the real ports; empty where it does not
    const StateHistory* history = nullptr;  // null: it is not shown
    const TransportReport* transport = nullptr; // which carries it; null or empty: not known yet
};

// QEMU shows nothing at all before the first migration, and never RAM figures on a destination. An error is shown until a
// recovery has connected again. A destination shows how long its guest waited for pages where QEMU does: completed, with the
// capability. x-pageferry-postcopy and x-pageferry-history are ours, in every state.
nlohmann::json query_migrate(const MigrationView& view);

} // namespace pageferry::hypervisor
