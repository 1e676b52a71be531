// What query-migrate said at one moment, in types.
//
// Pure; any thread. Figures a monitor does not give are empty: QEMU leaves out what has no meaning in a state.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::cli {

// Pageferry's x-pageferry-transport: which transport carries the migration, and which could not.
struct TransportView {
    struct Attempt {
        std::string uri;
        std::string reason;
        bool operator==(const Attempt&) const = default;
    };
    std::string uri;        // empty: none yet
    std::string name;       // "tcp"
    std::string connection; // as the transport describes it
    std::vector<Attempt> attempts;
    bool operator==(const TransportView&) const = default;
};

struct Snapshot {
    std::string status = "none";              // QEMU's MigrationStatus; "none" where there was never one
    std::optional<std::uint64_t> total;       // bytes of guest RAM
    std::optional<std::uint64_t> remaining;   // bytes
    std::optional<std::uint64_t> transferred; // bytes on the wire
    std::optional<std::uint64_t> processed;   // bytes of guest RAM dealt with: sent, or found to be zero
    std::optional<double> dirty_rate;         // bytes per second the guest writes anew
    std::optional<double> rate;               // bytes per second, the monitor's own figure
    std::optional<std::uint64_t> rounds;      // dirty bitmap synchronisations
    std::optional<std::chrono::milliseconds> total_time;
    std::optional<std::chrono::milliseconds> setup_time;
    std::optional<std::chrono::milliseconds> downtime;          // real, at the end
    std::optional<std::chrono::milliseconds> expected_downtime; // estimate, on the way
    std::string error;                                          // error-desc
    std::optional<TransportView> transport;
};

// Never fails: a member of an unexpected type counts as missing.
Snapshot parse_snapshot(const nlohmann::json& query_migrate);

// completed, failed or cancelled: nothing more will happen.
bool is_final(std::string_view status);
// A migration is under way, postcopy-paused included.
bool is_under_way(std::string_view status);

} // namespace pageferry::cli
