// What query-migrate said at one moment, in types.
//
// Pure; any thread. Figures a monitor does not give are empty: QEMU leaves out what has no meaning in a state.
#pragma once

#include "cli/history.h"

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

// What a postcopy has done so far: Pageferry's x-pageferry-postcopy, or what QEMU's own `ram` has of it.
struct PostcopyView {
    std::optional<std::uint64_t> requests;        // pages fetched because the guest waited for them
    std::optional<std::uint64_t> request_bytes;   // of those
    std::optional<std::uint64_t> bytes;           // all that came in postcopy
    std::optional<std::uint64_t> missing;         // bytes the destination does not have yet
    std::optional<double> faults_per_second;      // the monitor's own figure
    std::optional<std::chrono::microseconds> p50; // of a fault, until its page was there
    std::optional<std::chrono::microseconds> p99;
    std::vector<std::uint64_t> distribution; // the Nth: faults of [2^N, 2^(N+1)) microseconds
    bool operator==(const PostcopyView&) const = default;
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
    std::optional<PostcopyView> postcopy;
    std::uint64_t page_size = 4096;
    bool source = false; // it has figures only a source has; false also where that is not known
    History history;     // x-pageferry-history, as far as the monitor tells
};

// Never fails: a member of an unexpected type counts as missing.
Snapshot parse_snapshot(const nlohmann::json& query_migrate);

// x-pageferry-transport, also the data of the event PAGEFERRY_TRANSPORT. Empty: it is no object.
std::optional<TransportView> parse_transport(const nlohmann::json& object);

// Bytes of guest RAM still to move: in postcopy what the destination misses.
std::optional<std::uint64_t> bytes_left(const Snapshot& snapshot);

// completed, failed or cancelled: nothing more will happen.
bool is_final(std::string_view status);
// A migration is under way, postcopy-paused included.
bool is_under_way(std::string_view status);
// From postcopy-device to the end: the guest has left the source, and nothing can be cancelled.
bool is_postcopy(std::string_view status);

} // namespace pageferry::cli
