// The answer to query-migrate, in QEMU's fields (qapi/migration.json, MigrationInfo), from what the migration's parts know.
//
// Pure; any thread.
#pragma once

#include "engine/control_page.h"
#include "hypervisor/link/transport_report.h"
#include "statemachine/status.h"

#include <nlohmann/json_fwd.hpp>

#include <chrono>
#include <span>
#include <string>

namespace pageferry::hypervisor {

struct MigrationView {
    statemachine::Side side = statemachine::Side::source;
    statemachine::Status status = statemachine::Status::none;
    std::string error;                      // text of what failed
    std::chrono::milliseconds total_time{}; // from the start, to the end or now
    const engine::Progress* progress = nullptr;
    std::span<const std::string> blocked_reasons;
    std::span<const std::string> listening; // destination: the URIs it listens on, with the real ports; empty where it does not
    const TransportReport* transport = nullptr; // which carries it; null or empty: not known yet
};

// QEMU shows nothing at all before the first migration, and no RAM figures on a destination before they have a meaning.
nlohmann::json query_migrate(const MigrationView& view);

} // namespace pageferry::hypervisor
