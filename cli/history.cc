#include "cli/history.h"

#include "cli/units.h"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace pageferry::cli {

namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr std::size_t most_shown = 24; // entries; a recovery that is tried for days has thousands
constexpr std::size_t shown_at_the_start = 8;

milliseconds between(microseconds first, microseconds last) {
    return std::chrono::round<milliseconds>(std::max(last - first, microseconds{0}));
}

std::vector<std::string> words_of(const History& history) {
    std::vector<std::string> words;
    const bool all = history.size() <= most_shown;
    const std::size_t left_out = all ? 0 : history.size() - most_shown;
    for (std::size_t i = 0; i < history.size(); ++i) {
        if (!all && i == shown_at_the_start) {
            words.push_back("... (" + std::to_string(left_out) + " more) ...");
            i += left_out;
        }
        std::string word;
        for (const char c : history[i].status) { // a monitor's words must not move the cursor
            const auto byte = static_cast<unsigned char>(c);
            word += byte < 0x20 || byte == 0x7f ? ' ' : c;
        }
        words.push_back(history[i].lasted ? word + " " + format_duration(*history[i].lasted) : word);
    }
    return words;
}

} // namespace

void enter_state(History& history, std::string_view status, microseconds now) {
    count_until(history, now);
    history.push_back({.status = std::string{status}, .since = now, .lasted = std::nullopt});
}

void count_until(History& history, microseconds now) {
    if (!history.empty()) {
        history.back().lasted = between(history.back().since, now);
    }
}

std::vector<std::string> render_history_lines(const History& history, std::size_t width) {
    std::vector<std::string> lines;
    for (const std::string& word : words_of(history)) {
        if (lines.empty()) {
            lines.push_back(word);
        } else if (lines.back().size() + 2 + word.size() > width) {
            lines.back() += ",";
            lines.push_back(word);
        } else {
            lines.back() += ", " + word;
        }
    }
    return lines;
}

std::string render_history(const History& history) {
    const auto lines = render_history_lines(history, std::string::npos);
    return lines.empty() ? std::string{} : lines.front();
}

History parse_history(const nlohmann::json& list) {
    History history;
    if (!list.is_array()) {
        return history;
    }
    for (const auto& entry : list) {
        if (!entry.is_object() || !entry.contains("status") || !entry["status"].is_string() || !entry.contains("timestamp") ||
            !entry["timestamp"].is_object()) {
            continue;
        }
        const auto& time = entry["timestamp"];
        const auto seconds = time.find("seconds");
        const auto micros = time.find("microseconds");
        if (seconds == time.end() || micros == time.end() || !seconds->is_number_unsigned() || !micros->is_number_unsigned() ||
            seconds->get<std::uint64_t>() > 1ULL << 40U || micros->get<std::uint64_t>() >= 1'000'000) {
            continue;
        }
        enter_state(history, entry["status"].get<std::string>(),
                    std::chrono::seconds{seconds->get<std::int64_t>()} + microseconds{micros->get<std::int64_t>()});
    }
    return history;
}

} // namespace pageferry::cli
