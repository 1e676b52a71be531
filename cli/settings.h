// Capabilities and parameters as the command line gives them, and how they reach a monitor.
//
// parse_*: pure. apply() talks to the monitor; one thread.
#pragma once

#include "base/error.h"
#include "monitor/client.h"

#include <nlohmann/json_fwd.hpp>

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::cli {

struct Settings {
    std::vector<std::string> capabilities;               // "NAME=on", "NAME=off", "NAME" (on)
    std::vector<std::string> parameters;                 // "NAME=VALUE"
    std::optional<std::uint64_t> downtime_limit;         // ms
    std::optional<std::uint64_t> max_bandwidth;          // bytes per second
    std::optional<unsigned> lanes;                       // multifd-channels
    std::optional<std::string> rdma;                     // x-pageferry-rdma
    std::optional<std::uint64_t> max_postcopy_bandwidth; // bytes per second, of what no fault waits for
    std::optional<std::uint64_t> recover_attempts;       // x-pageferry-recover-attempts; 0: none
    std::optional<std::uint64_t> recover_backoff;        // ms, x-pageferry-recover-backoff
    std::optional<std::uint64_t> recover_time_limit;     // ms, x-pageferry-recover-time-limit; 0: none
};

// How a monitor recovers a paused postcopy by itself.
struct AutomaticRecovery {
    std::uint64_t attempts = 0; // 0: it does not
    std::chrono::milliseconds backoff{0};
    std::chrono::milliseconds time_limit{0}; // 0: none
};

Result<std::pair<std::string, bool>> parse_capability(std::string_view text);
Result<std::pair<std::string, std::string>> parse_assignment(std::string_view text);

// The JSON value of a parameter: of the type the monitor's present value has (`present`, null when it is not known): number ("1G"
// is one), on/off, or text. Of unknown type, what looks like a number or on/off is one.
Result<nlohmann::json> parameter_value(std::string_view name, std::string_view text, const nlohmann::json& present);

// The arguments of the two commands; the JSON is an empty object when nothing is to be set.
Result<nlohmann::json> capability_arguments(const Settings& settings);
Result<nlohmann::json> parameter_arguments(const Settings& settings, const nlohmann::json& present);

// Sends them. Errors: invalid_argument (a value that cannot be right; nothing was sent), refused (the monitor's words), or the
// client's.
Result<void> apply(monitor::QmpClient& client, const Settings& settings);

// Switches MIGRATION events on. False where the monitor refuses (during a migration): then query-migrate alone tells of changes.
Result<bool> enable_events(monitor::QmpClient& client);

// From query-migrate-parameters. No attempts where the monitor knows nothing of it.
Result<AutomaticRecovery> automatic_recovery(monitor::QmpClient& client);

// Whether this capability is switched by the settings, on or off.
bool mentions_capability(const Settings& settings, std::string_view name);

// How many lanes carry pages, as far as the monitor tells; empty: it does not.
std::optional<unsigned> lanes_in_use(monitor::QmpClient& client);

} // namespace pageferry::cli
