#include "cli/render.h"

#include "cli/units.h"

#include <nlohmann/json.hpp>

#include <cmath>

namespace pageferry::cli {

namespace {

using nlohmann::ordered_json;

ordered_json object(const char* type, std::chrono::microseconds time) {
    return ordered_json{{"type", type}, {"time", format_timestamp(time)}};
}

// Members without a figure are left out: a 0 would be a claim.
template <class T>
void put(ordered_json& to, const char* key, const std::optional<T>& value) {
    if (value) {
        to[key] = *value;
    }
}
void put(ordered_json& to, const char* key, const std::optional<std::chrono::milliseconds>& value) {
    if (value) {
        to[key] = value->count();
    }
}
void put_rate(ordered_json& to, const char* key, const std::optional<double>& value) {
    if (value) {
        to[key] = std::llround(*value);
    }
}

void put(ordered_json& to, const std::optional<TransportView>& transport) {
    if (!transport) {
        return;
    }
    ordered_json& object = to["transport"] = ordered_json::object();
    if (!transport->uri.empty()) {
        object["uri"] = transport->uri;
        object["name"] = transport->name;
        object["connection"] = transport->connection;
    }
    object["attempts"] = ordered_json::array();
    for (const auto& attempt : transport->attempts) {
        object["attempts"].push_back({{"uri", attempt.uri}, {"reason", attempt.reason}});
    }
}

void put(ordered_json& to, const std::optional<std::chrono::microseconds>& value, const char* key) {
    if (value) {
        to[key] = value->count();
    }
}

void put(ordered_json& to, const std::optional<PostcopyView>& postcopy, const std::optional<double>& faults,
         std::uint64_t page_size) {
    if (!postcopy) {
        return;
    }
    ordered_json& object = to["postcopy"] = ordered_json::object();
    put(object, "requests", postcopy->requests);
    put(object, "request_bytes", postcopy->request_bytes);
    put(object, "bytes", postcopy->bytes);
    put(object, "missing_bytes", postcopy->missing);
    if (postcopy->missing) {
        object["missing_pages"] = *postcopy->missing / page_size + (*postcopy->missing % page_size != 0 ? 1 : 0);
    }
    if (faults) {
        object["faults_per_second"] = std::round(*faults * 10) / 10;
    }
    put(object, postcopy->p50, "latency_p50_us");
    put(object, postcopy->p99, "latency_p99_us");
    if (!postcopy->distribution.empty()) {
        object["latency_distribution"] = postcopy->distribution;
    }
}

void put(ordered_json& to, const History& history) {
    if (history.empty()) {
        return;
    }
    ordered_json& list = to["history"] = ordered_json::array();
    for (const auto& [status, since, lasted] : history) {
        ordered_json entry{{"status", status}, {"time", format_timestamp(since)}};
        put(entry, "ms", lasted);
        list.push_back(std::move(entry));
    }
}

std::string line(const ordered_json& value) {
    return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

} // namespace

std::string json_progress(const ProgressView& view) {
    const Snapshot& now = view.snapshot;
    ordered_json to = object("progress", view.time);
    to["status"] = now.status;
    if (view.percent) {
        to["percent"] = std::round(*view.percent * 100) / 100;
    }
    put(to, "total_bytes", now.total);
    put(to, "remaining_bytes", now.remaining);
    put(to, "transferred_bytes", now.transferred);
    put_rate(to, "rate_bytes_per_second", view.rate);
    const bool postcopy = is_postcopy(now.status); // what concerns dirty pages is over then
    if (!postcopy) {
        put_rate(to, "dirty_bytes_per_second", now.dirty_rate);
    }
    put(to, "eta_ms", view.eta);
    if (view.eta || !view.converges) {
        to["converges"] = view.converges;
    }
    if (!postcopy) {
        put(to, "expected_downtime_ms", now.expected_downtime);
    }
    put(to, "downtime_ms", now.downtime);
    put(to, "total_time_ms", now.total_time);
    put(to, "rounds", now.rounds);
    put(to, "lanes", view.lanes);
    put(to, now.transport);
    put(to, now.postcopy, view.faults, now.page_size);
    if (!now.error.empty()) {
        to["error"] = now.error;
    }
    return line(to);
}

std::string json_state(const StateChange& change) {
    ordered_json to = object(change.run_state ? "guest" : "state", change.time);
    to[change.run_state ? "event" : "status"] = change.status;
    return line(to);
}

std::string json_summary(const Summary& summary, int exit_code, std::chrono::microseconds now) {
    const Snapshot& last = summary.last;
    ordered_json to = object("summary", now);
    to["status"] = last.status;
    to["exit_code"] = exit_code;
    to["timed_out"] = summary.timed_out;
    to["total_time_ms"] = last.total_time.value_or(summary.watched).count();
    put(to, "setup_time_ms", last.setup_time);
    put(to, "downtime_ms", last.downtime);
    put(to, "transferred_bytes", last.transferred);
    put(to, "total_bytes", last.total);
    put_rate(to, "rate_bytes_per_second", average_rate(summary));
    put(to, "rounds", last.rounds);
    put(to, last.transport);
    put(to, last.postcopy, std::nullopt, last.page_size);
    put(to, last.history.empty() ? summary.history : last.history);
    if (!last.error.empty()) {
        to["error"] = last.error;
    }
    return line(to);
}

} // namespace pageferry::cli
