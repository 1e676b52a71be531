#include "hypervisor/monitor_process/query_migrate.h"

#include "transport/uri.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <optional>

namespace pageferry::hypervisor {

using nlohmann::json;
using statemachine::Status;

namespace {

json ram_figures(const engine::Progress& progress, std::chrono::milliseconds total_time, bool over) {
    const std::uint64_t transferred = progress.ram_transferred;
    // Each figure is read once: the mover writes them, and may write anything.
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
            {"remaining", progress.ram_remaining.load()},
            {"transferred", transferred + progress.device_bytes.load()},
            {"normal", transferred / page_size},
            {"normal-bytes", transferred},
            {"duplicate", progress.ram_hole.load() / page_size}, // QEMU: pages of zeros, here never sent
            {"page-size", page_size},
            {"mbps", std::round(mbps * 100) / 100},
            {"pages-per-second", static_cast<std::uint64_t>(std::min(rate, 1e18)) / page_size},
            {"dirty-pages-rate", progress.dirty_pages_rate.load()},
            {"dirty-sync-count", progress.dirty_sync_count.load()},
            {"precopy-bytes", transferred - std::min(transferred, in_downtime)},
            {"downtime-bytes", in_downtime},
            {"multifd-bytes", transferred},
            {"postcopy-requests", 0},
            {"postcopy-bytes", 0},
            {"dirty-sync-missed-zero-copy", 0}};
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
    if (!view.error.empty()) {
        answer["error-desc"] = view.error;
    }
    if (view.transport != nullptr && !view.transport->empty()) {
        answer["x-pageferry-transport"] = shown(*view.transport);
    }
    if (view.side == statemachine::Side::destination || view.progress == nullptr) {
        return answer;
    }
    const auto& progress = *view.progress;
    const bool over = view.status == Status::completed;
    answer["total-time"] = view.total_time.count();
    if (view.status == Status::setup) {
        return answer;
    }
    answer["setup-time"] = progress.setup_us / 1000;
    answer["ram"] = ram_figures(progress, view.total_time, over);
    answer["x-pageferry-lanes"] = progress.lanes.load();
    if (over) {
        answer["downtime"] = (progress.downtime_us + 999) / 1000;
    } else if (view.status != Status::failed && view.status != Status::cancelled) {
        answer["expected-downtime"] = progress.expected_downtime_ms.load();
    }
    return answer;
}

} // namespace pageferry::hypervisor
