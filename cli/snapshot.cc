#include "cli/snapshot.h"

#include <nlohmann/json.hpp>

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

std::optional<TransportView> transport(const json& answer) {
    const auto found = answer.find("x-pageferry-transport");
    if (found == answer.end() || !found->is_object()) {
        return std::nullopt;
    }
    TransportView view{
        .uri = text(*found, "uri"), .name = text(*found, "name"), .connection = text(*found, "connection"), .attempts = {}};
    if (const auto attempts = found->find("attempts"); attempts != found->end() && attempts->is_array()) {
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

} // namespace

Snapshot parse_snapshot(const json& query_migrate) {
    Snapshot snapshot;
    if (!query_migrate.is_object()) {
        return snapshot;
    }
    if (std::string status = text(query_migrate, "status"); !status.empty()) {
        snapshot.status = std::move(status);
    }
    snapshot.error = text(query_migrate, "error-desc");
    snapshot.transport = transport(query_migrate);
    snapshot.total_time = time(query_migrate, "total-time");
    snapshot.setup_time = time(query_migrate, "setup-time");
    snapshot.downtime = time(query_migrate, "downtime");
    snapshot.expected_downtime = time(query_migrate, "expected-downtime");
    const auto ram = query_migrate.find("ram");
    if (ram == query_migrate.end() || !ram->is_object()) {
        return snapshot;
    }
    snapshot.total = count(*ram, "total");
    snapshot.remaining = count(*ram, "remaining");
    snapshot.transferred = count(*ram, "transferred");
    snapshot.rounds = count(*ram, "dirty-sync-count");
    if (const auto megabits = number(*ram, "mbps")) {
        snapshot.rate = *megabits * 1e6 / 8; // QEMU's "mbps" is 10^6 bits
    }
    const std::uint64_t page_size = count(*ram, "page-size").value_or(4096);
    if (const auto pages = number(*ram, "dirty-pages-rate")) {
        snapshot.dirty_rate = *pages * static_cast<double>(page_size);
    }
    if (const auto normal = count(*ram, "normal")) {
        snapshot.processed = (*normal + count(*ram, "duplicate").value_or(0)) * page_size;
    }
    return snapshot;
}

bool is_final(std::string_view status) {
    return status == "completed" || status == "failed" || status == "cancelled";
}

bool is_under_way(std::string_view status) {
    return status != "none" && !is_final(status);
}

} // namespace pageferry::cli
