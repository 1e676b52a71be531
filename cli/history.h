// The states a migration went through, with how long each lasted.
//
// Pure; any thread. Times are the events' own, so a migration that is watched late or seldom is told as it was.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::cli {

struct HistoryEntry {
    std::string status;
    std::chrono::microseconds since{0};              // since 1970
    std::optional<std::chrono::milliseconds> lasted; // empty: it is the latest one
    bool operator==(const HistoryEntry&) const = default;
};
using History = std::vector<HistoryEntry>;

// Ends the latest entry and adds this one. A clock that was set back makes no negative times.
void enter_state(History& history, std::string_view status, std::chrono::microseconds now);
// The latest one has lasted until now, and goes on.
void count_until(History& history, std::chrono::microseconds now);

// "setup 20 ms, active 3.1 s, completed". Of a long one the middle is left out, and the text says so.
std::string render_history(const History& history);
// The same as lines of at most about `width` columns, broken between states.
std::vector<std::string> render_history_lines(const History& history, std::size_t width);

// query-migrate's x-pageferry-history: [{"status", "timestamp": {"seconds", "microseconds"}}]. Empty where it is none.
History parse_history(const nlohmann::json& list);

} // namespace pageferry::cli
