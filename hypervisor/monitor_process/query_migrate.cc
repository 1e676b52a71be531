#include "hypervisor/monitor_process/query_migrate.h"

#include "engine/postcopy/latency.h"
#include "transport/uri.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <utility>

namespace pageferry::hypervisor {

using nlohmann::json;
using statemachine::Status;

namespace {

std::uint64_t sum(std::uint64_t a, std::uint64_t b) {
    return a + std::min(b, std::numeric_limits<std::uint64_t>::max() - a);
}

json ram_figures(const engine::Progress& progress, const engine::Postcopy* postcopy, std::chrono::milliseconds total_time,
                 bool over) {
    const std::uint64_t pushed = progress.ram_transferred;
    const std::uint64_t pulled = postcopy != nullptr ? postcopy->bytes.load() : 0;
    const std::uint64_t transferred = sum(pushed, pulled);
    const std::uint64_t told_page_size = progress.page_size;
    const std::uint64_t page_size = told_page_size != 0 ? told_page_size : 4096;
    const std::uint64_t in_downtime = progress.downtime_bytes;
    const std::uint64_t bandwidth = progress.bandwidth;
    const double seconds = static_cast<double>(total_time.count()) / 1000.0;
    // QEMU: the mean throughput of the whole migration once it is over, the present one before.
    const double mean = seconds > 0 ? static_cast<double>(transferred) / seconds : 0;
    const double rate = over || bandwidth == 0 ? mean : static_cast<double>(bandwidth); // bytes per second
    const double mbps = rate * 8 / 1e6;
    return {{"total", progress.ram_total.load()},
            {"remaining", over ? 0 : progress.ram_remaining.load()},
            {"transferred", sum(transferred, progress.device_bytes)},
            {"normal", transferred / page_size},
            {"normal-bytes", transferred},
            {"duplicate", progress.ram_hole.load() / page_size}, // QEMU: pages of zeros, here never sent
            {"page-size", page_size},
            {"mbps", std::round(mbps * 100) / 100},
            {"pages-per-second", static_cast<std::uint64_t>(std::min(rate, 1e18)) / page_size},
            {"dirty-pages-rate", progress.dirty_pages_rate.load()},
            {"dirty-sync-count", progress.dirty_sync_count.load()},
            {"precopy-bytes", pushed - std::min(pushed, in_downtime)},
            {"downtime-bytes", in_downtime},
            {"multifd-bytes", pushed},
            {"postcopy-requests", postcopy != nullptr ? postcopy->requests.load() : 0},
            {"postcopy-bytes", pulled},
            {"dirty-sync-missed-zero-copy", 0}};
}

constexpr std::uint64_t ns_per_ms = 1'000'000;

std::uint64_t quotient(std::uint64_t sum_of_all, std::uint64_t number) {
    return number != 0 ? sum_of_all / number : 0;
}

std::uint32_t milliseconds_of(std::uint64_t nanoseconds) { // QEMU's type
    return static_cast<std::uint32_t>(
        std::min<std::uint64_t>(nanoseconds / ns_per_ms, std::numeric_limits<std::uint32_t>::max()));
}

using LatencyCounts = std::array<std::uint64_t, engine::Postcopy::buckets>;

LatencyCounts counts(const engine::Postcopy& postcopy) {
    LatencyCounts all{};
    std::ranges::transform(postcopy.latency, all.begin(), [](const auto& one) { return one.load(); });
    return all;
}

// QEMU's fill_destination_postcopy_migration_info.
void add_blocktime(json& answer, const engine::Postcopy& postcopy) {
    json blocked = json::array();
    json latency = json::array();
    const std::size_t vcpus = std::min<std::uint64_t>(postcopy.vcpus, engine::Postcopy::most_vcpus);
    for (const auto& vcpu : std::span{postcopy.vcpu}.first(vcpus)) {
        blocked.push_back(milliseconds_of(vcpu.blocked_ns));
        latency.push_back(quotient(vcpu.latency_ns, vcpu.faults));
    }
    answer["postcopy-blocktime"] = milliseconds_of(postcopy.blocked_ns);
    answer["postcopy-vcpu-blocktime"] = std::move(blocked);
    answer["postcopy-latency"] = quotient(postcopy.latency_ns, postcopy.latency_faults);
    answer["postcopy-latency-dist"] = counts(postcopy);
    answer["postcopy-vcpu-latency"] = std::move(latency);
    answer["postcopy-non-vcpu-latency"] = quotient(postcopy.other_latency_ns, postcopy.other_faults);
}

json postcopy_figures(const engine::Postcopy& postcopy, const engine::Progress* progress, bool destination, bool over) {
    json figures = {{"requests", postcopy.requests.load()}, {"bytes", postcopy.bytes.load()}};
    if (progress != nullptr) {
        figures["missing"] = over ? 0 : progress->ram_remaining.load();
    }
    if (destination) {
        const LatencyCounts all = counts(postcopy);
        json latency = {{"dist", all}};
        for (const auto& [name, percent] : {std::pair{"p50-us", 50.0}, std::pair{"p99-us", 99.0}}) {
            if (const auto value = engine::percentile(all, percent)) {
                latency[name] = std::round(*value * 10) / 10;
            }
        }
        figures["request-bytes"] = postcopy.request_bytes.load();
        figures["latency"] = std::move(latency);
    }
    return figures;
}

// A recovery that has connected leaves the error of the loss behind (QEMU: migration_connect).
bool error_is_of_now(Status status) {
    return status != Status::postcopy_recover && status != Status::postcopy_active && status != Status::completed;
}

bool in_postcopy(Status status) {
    switch (status) {
    case Status::postcopy_device:
    case Status::postcopy_active:
    case Status::postcopy_paused:
    case Status::postcopy_recover_setup:
    case Status::postcopy_recover: return true;
    default: return false;
    }
}

// QEMU's SocketAddress (qapi/sockets.json).
std::optional<json> socket_address(const std::string& text) {
    const auto uri = transport::parse_uri(text);
    if (!uri) {
        return std::nullopt;
    }
    if (uri->scheme == "unix") {
        return json{{"type", "unix"}, {"path", uri->path}};
    }
    return json{{"type", "inet"}, {"host", uri->host}, {"port", std::to_string(uri->port)}};
}

} // namespace

json query_migrate(const MigrationView& view) {
    json answer = json::object();
    if (!view.blocked_reasons.empty()) {
        answer["blocked-reasons"] = json(std::vector<std::string>(view.blocked_reasons.begin(), view.blocked_reasons.end()));
    }
    for (const auto& uri : view.listening) {
        if (auto address = socket_address(uri)) {
            answer["socket-address"].push_back(std::move(*address));
        }
    }
    if (view.status == Status::none) {
        return answer;
    }
    answer["status"] = std::string{statemachine::name_of(view.status)};
    if (!view.error.empty() && error_is_of_now(view.status)) {
        answer["error-desc"] = view.error;
    }
    if (view.history != nullptr) {
        answer["x-pageferry-history"] = view.history->shown();
    }
    if (view.transport != nullptr && !view.transport->empty()) {
        answer["x-pageferry-transport"] = shown(*view.transport);
    }
    const bool destination = view.side == statemachine::Side::destination;
    const bool over = view.status == Status::completed;
    if (view.postcopy != nullptr) {
        answer["x-pageferry-postcopy"] = postcopy_figures(*view.postcopy, view.progress, destination, over);
        if (destination && over && view.postcopy_blocktime) {
            add_blocktime(answer, *view.postcopy);
        }
    }
    if (destination || view.progress == nullptr) {
        return answer;
    }
    const auto& progress = *view.progress;
    answer["total-time"] = view.total_time.count();
    if (view.status == Status::setup) {
        return answer;
    }
    answer["setup-time"] = progress.setup_us / 1000;
    answer["ram"] = ram_figures(progress, view.postcopy, view.total_time, over);
    answer["x-pageferry-lanes"] = progress.lanes.load();
    if (over || in_postcopy(view.status)) {
        answer["downtime"] = (progress.downtime_us + 999) / 1000;
    } else if (view.status != Status::failed && view.status != Status::cancelled) {
        answer["expected-downtime"] = progress.expected_downtime_ms.load();
    }
    return answer;
}

} // namespace pageferry::hypervisor
