#include "cli/render.h"

#include "cli/units.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace pageferry::cli {

namespace {

constexpr std::size_t bar_width = 20;

std::string bar(double percent) {
    const auto full = static_cast<std::size_t>(percent / 100.0 * static_cast<double>(bar_width));
    std::string text = "[" + std::string(std::min(full, bar_width), '#');
    text.resize(bar_width + 1, '.');
    return text + "]";
}

std::string percent_text(double percent) {
    std::array<char, 16> text{};
    // 100 % is said only when it is true.
    std::snprintf(text.data(), text.size(), "%5.1f%%", percent < 100 ? std::min(percent, 99.9) : 100.0);
    return text.data();
}

struct Part {
    int rank; // 0 stays always; the highest goes first
    std::string text;
};

std::string join(const std::vector<Part>& parts, int highest_rank) {
    std::string line;
    for (const Part& part : parts) {
        if (part.rank <= highest_rank) {
            line += (line.empty() ? "" : "  ") + part.text;
        }
    }
    return line;
}

std::string row(std::string_view label, const std::string& value) {
    std::string line{label};
    line.resize(std::max<std::size_t>(label.size() + 1, 20), ' ');
    return line + value + "\n";
}

// A monitor's words must not move the cursor or break the line.
std::string printable(std::string_view text) {
    std::string clean;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        clean += byte < 0x20 || byte == 0x7f ? ' ' : c;
    }
    return clean;
}

std::string by(const TransportView& transport) {
    return transport.uri.empty() ? "no transport yet" : "by " + printable(transport.name);
}

std::string attempts_text(const TransportView& transport) {
    std::string text;
    for (const auto& attempt : transport.attempts) {
        text += (text.empty() ? "" : "; ") + render_attempt(attempt);
    }
    return text;
}

// Pages and bytes: the first is what a guest waits for, the second what a network carries.
std::string pages_text(std::uint64_t bytes, std::uint64_t page_size) {
    const std::uint64_t pages = bytes / page_size + (bytes % page_size != 0 ? 1 : 0);
    return std::to_string(pages) + (pages == 1 ? " page (" : " pages (") + format_size(bytes) + ")";
}

std::string faults_text(double per_second) {
    std::array<char, 40> text{};
    std::snprintf(text.data(), text.size(), per_second < 9.95 ? "%.1f faults/s" : "%.0f faults/s", per_second);
    return text.data();
}

void add_postcopy(std::vector<Part>& parts, const ProgressView& view) {
    if (view.faults) {
        parts.push_back({.rank = 2, .text = faults_text(*view.faults)});
    }
    if (const auto& postcopy = view.snapshot.postcopy; postcopy) {
        if (postcopy->p50) {
            parts.push_back({.rank = 5, .text = "p50 " + format_latency(*postcopy->p50)});
        }
        if (postcopy->p99) {
            parts.push_back({.rank = 3, .text = "p99 " + format_latency(*postcopy->p99)});
        }
    }
}

std::string postcopy_rows(const PostcopyView& postcopy, const std::optional<double>& faults) {
    std::string text;
    if (postcopy.requests) {
        text += row("faults", std::to_string(*postcopy.requests) + " pages" +
                                  (postcopy.request_bytes ? " (" + format_size(*postcopy.request_bytes) + ")" : "") +
                                  (faults ? ", " + faults_text(*faults) : ""));
    }
    if (postcopy.p50 || postcopy.p99) {
        const std::string p50 = postcopy.p50 ? "p50 " + format_latency(*postcopy.p50) : "";
        const std::string p99 = postcopy.p99 ? "p99 " + format_latency(*postcopy.p99) : "";
        text += row("fault latency", p50 + (p50.empty() || p99.empty() ? "" : ", ") + p99);
    }
    if (postcopy.bytes) {
        text += row("moved in postcopy", format_size(*postcopy.bytes));
    }
    return text;
}

std::string history_rows(const History& history) {
    std::string text;
    for (const std::string& line : render_history_lines(history, 100)) {
        text += row(text.empty() ? "states" : "", line);
    }
    return text;
}

// As a shell wants it.
std::string quoted(std::string_view word) {
    const std::string clean = printable(word);
    if (clean.find_first_of(" []'\"\\$&;()<>|*?`!#~") == std::string::npos) {
        return clean;
    }
    std::string text = "'";
    for (const char c : clean) {
        text += c == '\'' ? std::string{"'\\''"} : std::string{c};
    }
    return text + "'";
}

} // namespace

std::string recovery_advice(const Snapshot& paused, std::string_view monitor, const std::vector<std::string>& uris) {
    std::string where;
    for (const std::string& uri : uris) {
        where += " " + quoted(uri);
    }
    if (where.empty()) {
        where = " " + (paused.transport && !paused.transport->uri.empty() ? quoted(paused.transport->uri) : std::string{"URI"});
    }
    if (paused.source) {
        return "pageferry recover --qmp " + quoted(monitor) + where;
    }
    return "recover it at the source: pageferry recover --qmp SOURCE-MONITOR URI (to listen at another address here first: "
           "pageferry recover --qmp " +
           quoted(monitor) + " --incoming URI)";
}

std::string render_attempt(const TransportView::Attempt& attempt) {
    return printable(attempt.uri) + ": " + printable(attempt.reason);
}

std::string render_transport(const TransportView& transport) {
    if (transport.uri.empty() && transport.attempts.empty()) {
        return {};
    }
    return by(transport) + (transport.attempts.empty() ? "" : " (" + attempts_text(transport) + ")");
}

std::string render_live_line(const ProgressView& view, std::size_t width) {
    const Snapshot& now = view.snapshot;
    std::vector<Part> parts{{.rank = 0, .text = printable(now.status)}};
    if (view.percent) {
        parts.push_back({.rank = 4, .text = bar(*view.percent)});
        parts.push_back({.rank = 0, .text = percent_text(*view.percent)});
    }
    const bool postcopy = is_postcopy(now.status);
    if (const auto left = bytes_left(now)) {
        parts.push_back({.rank = 3, .text = (postcopy ? pages_text(*left, now.page_size) : format_size(*left)) + " left"});
    }
    if (view.rate) {
        parts.push_back({.rank = 1, .text = format_rate(*view.rate)});
    }
    if (postcopy) {
        add_postcopy(parts, view);
    } else if (now.dirty_rate) {
        parts.push_back({.rank = 5, .text = "dirty " + format_rate(*now.dirty_rate)});
    }
    if (view.eta) {
        parts.push_back({.rank = 2, .text = "ETA " + format_duration(*view.eta)});
    } else if (!view.converges) {
        parts.push_back({.rank = 2, .text = "ETA never at this dirty rate"});
    }
    if (now.expected_downtime && !postcopy) {
        parts.push_back({.rank = 6, .text = "downtime ~" + format_duration(*now.expected_downtime)});
    }
    if (view.lanes) {
        parts.push_back({.rank = 7, .text = std::to_string(*view.lanes) + (*view.lanes == 1 ? " lane" : " lanes")});
    }
    if (now.transport && !render_transport(*now.transport).empty()) {
        parts.push_back({.rank = now.transport->attempts.empty() ? 8 : 5, .text = by(*now.transport)});
        if (!now.transport->attempts.empty()) {
            parts.push_back({.rank = 9, .text = "(" + attempts_text(*now.transport) + ")"});
        }
    }
    std::string line;
    for (int rank = 9; rank >= 0; --rank) {
        line = join(parts, rank);
        if (line.size() <= width) {
            return line;
        }
    }
    return line.substr(0, width);
}

std::string render_state_line(const StateChange& change) {
    return format_clock(change.time) + "  " + (change.run_state ? "(guest) " : "") + printable(change.status);
}

std::optional<double> average_rate(const Summary& summary) {
    if (!summary.last.transferred) {
        return std::nullopt;
    }
    const auto time = summary.last.total_time.value_or(summary.watched);
    if (time.count() <= 0) {
        return std::nullopt;
    }
    return static_cast<double>(*summary.last.transferred) * 1000 / static_cast<double>(time.count());
}

std::string render_summary(const Summary& summary) {
    const Snapshot& last = summary.last;
    std::string text = row("result", printable(last.status) + (summary.timed_out ? " (--timeout passed)" : ""));
    text += row("total time", format_duration(last.total_time.value_or(summary.watched)));
    if (last.downtime) {
        text += row("downtime", format_duration(*last.downtime));
    }
    if (last.transferred) {
        text += row("transferred", format_size(*last.transferred));
    }
    if (const auto rate = average_rate(summary)) {
        text += row("rate", format_rate(*rate));
    }
    if (last.rounds) {
        text += row("rounds", std::to_string(*last.rounds));
    }
    if (last.transport && !render_transport(*last.transport).empty()) {
        text += row("transport", render_transport(*last.transport));
    }
    if (last.postcopy) {
        text += postcopy_rows(*last.postcopy, std::nullopt);
    }
    text += history_rows(last.history.empty() ? summary.history : last.history);
    return text;
}

std::string render_status(const ProgressView& view, std::string_view next) {
    const Snapshot& now = view.snapshot;
    std::string text = row("state", printable(now.status));
    if (view.percent) {
        text += row("done", percent_text(*view.percent).substr(percent_text(*view.percent).find_first_not_of(' ')));
    }
    if (now.total) {
        text += row("guest RAM", format_size(*now.total));
    }
    if (const auto left = bytes_left(now)) {
        text += row("left", is_postcopy(now.status) ? pages_text(*left, now.page_size) : format_size(*left));
    }
    if (now.transferred) {
        text += row("transferred", format_size(*now.transferred));
    }
    if (view.rate) {
        text += row("rate", format_rate(*view.rate));
    }
    if (now.dirty_rate && !is_postcopy(now.status)) {
        text += row("dirty rate", format_rate(*now.dirty_rate));
    }
    if (view.eta) {
        text += row("ETA", format_duration(*view.eta));
    } else if (!view.converges) {
        text += row("ETA", "never at this dirty rate");
    }
    if (now.expected_downtime && !is_postcopy(now.status)) {
        text += row("expected downtime", format_duration(*now.expected_downtime));
    }
    if (now.downtime) {
        text += row("downtime", format_duration(*now.downtime));
    }
    if (now.total_time) {
        text += row("total time", format_duration(*now.total_time));
    }
    if (now.rounds) {
        text += row("rounds", std::to_string(*now.rounds));
    }
    if (view.lanes) {
        text += row("lanes", std::to_string(*view.lanes));
    }
    if (now.transport && !now.transport->uri.empty()) {
        text += row("transport", printable(now.transport->uri) + " (" + printable(now.transport->connection) + ")");
    }
    if (now.transport) {
        for (const auto& attempt : now.transport->attempts) {
            text += row("could not use", render_attempt(attempt));
        }
    }
    if (now.postcopy) {
        text += postcopy_rows(*now.postcopy, view.faults);
    }
    text += history_rows(now.history);
    if (!now.error.empty()) {
        text += row("error", printable(now.error));
    }
    if (!next.empty()) {
        text += row("next", std::string{next});
    }
    return text;
}

} // namespace pageferry::cli
