#include "cli/snapshot.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

namespace pageferry::cli {

namespace {

using nlohmann::json;

std::optional<double> number(const json& object, const char* key) {
    const auto value = object.find(key);
    if (value == object.end() || !value->is_number() || value->get<double>() < 0) {
        return std::nullopt;
    }
    return value->get<double>();
}

std::optional<std::uint64_t> count(const json& object, const char* key) {
    const auto value = object.find(key);
    if (value == object.end() || !value->is_number_integer() ||
        (!value->is_number_unsigned() && value->get<std::int64_t>() < 0)) {
        return std::nullopt;
    }
    return value->get<std::uint64_t>();
}

std::optional<std::chrono::milliseconds> time(const json& object, const char* key) {
    const auto value = count(object, key);
    return value ? std::optional{std::chrono::milliseconds{static_cast<std::int64_t>(*value & (UINT64_MAX >> 1))}} : std::nullopt;
}

std::string text(const json& object, const char* key) {
    const auto value = object.find(key);
    return value != object.end() && value->is_string() ? value->get<std::string>() : std::string{};
}

std::optional<std::chrono::microseconds> latency(const json& object, const char* key) {
    const auto value = number(object, key);
    return value ? std::optional{std::chrono::microseconds{std::llround(std::min(*value, 1e15))}} : std::nullopt;
}

std::optional<PostcopyView> postcopy(const json& answer, const json& ram, std::string_view status) {
    PostcopyView view;
    // QEMU has them at 0 in every migration.
    const auto requests = count(ram, "postcopy-requests");
    const auto bytes = count(ram, "postcopy-bytes");
    if (is_postcopy(status) || requests.value_or(0) > 0 || bytes.value_or(0) > 0) {
        view.requests = requests;
        view.bytes = bytes;
    }
    if (const auto found = answer.find("x-pageferry-postcopy"); found != answer.end() && found->is_object()) {
        const auto take = [&](const char* key, auto& to) {
            if (auto value = count(*found, key)) {
                to = value;
            }
        };
        take("requests", view.requests);
        take("request-bytes", view.request_bytes);
        take("bytes", view.bytes);
        take("missing", view.missing);
        view.faults_per_second = number(*found, "faults-per-second");
        if (const auto times = found->find("latency"); times != found->end() && times->is_object()) {
            view.p50 = latency(*times, "p50-us");
            view.p99 = latency(*times, "p99-us");
            if (const auto list = times->find("dist");
                list != times->end() && list->is_array() && std::ranges::all_of(*list, &json::is_number_unsigned)) {
                view.distribution = list->get<std::vector<std::uint64_t>>();
            }
        }
    }
    return view == PostcopyView{} ? std::nullopt : std::optional{std::move(view)};
}

} // namespace

std::optional<TransportView> parse_transport(const json& object) {
    if (!object.is_object()) {
        return std::nullopt;
    }
    TransportView view{
        .uri = text(object, "uri"), .name = text(object, "name"), .connection = text(object, "connection"), .attempts = {}};
    if (const auto attempts = object.find("attempts"); attempts != object.end() && attempts->is_array()) {
        for (const json& attempt : *attempts) {
            if (attempt.is_object()) {
                std::string reason = text(attempt, "reason");
                view.attempts.push_back(
                    {.uri = text(attempt, "uri"), .reason = reason.empty() ? text(attempt, "error-desc") : std::move(reason)});
            }
        }
    }
    return view;
}

Snapshot parse_snapshot(const json& query_migrate) {
    Snapshot snapshot;
    if (!query_migrate.is_object()) {
        return snapshot;
    }
    if (std::string status = text(query_migrate, "status"); !status.empty()) {
        snapshot.status = std::move(status);
    }
    snapshot.error = text(query_migrate, "error-desc");
    if (const auto found = query_migrate.find("x-pageferry-transport"); found != query_migrate.end()) {
        snapshot.transport = parse_transport(*found);
    }
    if (const auto found = query_migrate.find("x-pageferry-history"); found != query_migrate.end()) {
        snapshot.history = parse_history(*found);
    }
    snapshot.total_time = time(query_migrate, "total-time");
    snapshot.setup_time = time(query_migrate, "setup-time");
    snapshot.downtime = time(query_migrate, "downtime");
    snapshot.expected_downtime = time(query_migrate, "expected-downtime");
    const auto ram = query_migrate.find("ram");
    const bool figures = ram != query_migrate.end() && ram->is_object();
    snapshot.source = figures || snapshot.total_time;
    snapshot.postcopy = postcopy(query_migrate, figures ? *ram : json::object(), snapshot.status);
    if (!figures) {
        return snapshot;
    }
    snapshot.total = count(*ram, "total");
    snapshot.remaining = count(*ram, "remaining");
    snapshot.transferred = count(*ram, "transferred");
    snapshot.rounds = count(*ram, "dirty-sync-count");
    if (const auto megabits = number(*ram, "mbps")) {
        snapshot.rate = *megabits * 1e6 / 8; // QEMU's "mbps" is 10^6 bits
    }
    const std::uint64_t page_size = std::max<std::uint64_t>(count(*ram, "page-size").value_or(4096), 1);
    snapshot.page_size = page_size;
    if (const auto pages = number(*ram, "dirty-pages-rate")) {
        snapshot.dirty_rate = *pages * static_cast<double>(page_size);
    }
    if (const auto normal = count(*ram, "normal")) {
        snapshot.processed = (*normal + count(*ram, "duplicate").value_or(0)) * page_size;
    }
    return snapshot;
}

std::optional<std::uint64_t> bytes_left(const Snapshot& snapshot) {
    return is_postcopy(snapshot.status) && snapshot.postcopy && snapshot.postcopy->missing ? snapshot.postcopy->missing
                                                                                           : snapshot.remaining;
}

bool is_final(std::string_view status) {
    return status == "completed" || status == "failed" || status == "cancelled";
}

bool is_under_way(std::string_view status) {
    return status != "none" && !is_final(status);
}

bool is_postcopy(std::string_view status) {
    return status.starts_with("postcopy-");
}

} // namespace pageferry::cli
