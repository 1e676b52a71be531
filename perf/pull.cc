#include "perf/pull.h"

#include "perf/measure.h"
#include "perf/push_protocol.h"
#include "perf/shared_ram.h"
#include "transport/loader.h"
#include "transport/uri.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <functional>
#include <span>

namespace pageferry::perf {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using Start = std::function<Result<std::size_t>(std::span<const pf_extent>)>;

// All of the extents, at most so many under way at once.
Result<void> move_all(transport::Connection& connection, const Start& start, std::span<const pf_extent> extents,
                      std::size_t in_flight, milliseconds timeout) {
    std::array<pf_completion, 64> done{};
    std::size_t under_way = 0;
    auto last_progress = steady_clock::now();
    while (!extents.empty() || under_way > 0) {
        if (const std::size_t room = in_flight - under_way; room > 0 && !extents.empty()) {
            const auto taken = start(extents.first(std::min(room, extents.size())));
            if (!taken) {
                return std::unexpected(taken.error());
            }
            under_way += *taken;
            extents = extents.subspan(*taken);
        }
        const auto finished = connection.poll(done, milliseconds{100});
        if (!finished) {
            return std::unexpected(finished.error());
        }
        if (std::ranges::any_of(std::span{done}.first(*finished), [](const auto& one) { return one.status != PF_OK; })) {
            return std::unexpected(make_error(ErrorCode::io, "move", connection.describe(), "A page did not arrive"));
        }
        under_way -= *finished;
        const auto now = steady_clock::now();
        last_progress = *finished > 0 ? now : last_progress;
        if (now - last_progress > timeout) {
            return std::unexpected(make_error(ErrorCode::timed_out, "move", connection.describe(), "Nothing moves",
                                              "see whether the other side still runs"));
        }
    }
    return {};
}

Result<PullReport> pull_over(transport::Connection& connection, SharedRam& ram, const PullOptions& options) {
    PAGEFERRY_TRY(connection.connect(options.timeout, {}));
    const transport::MemoryBlock block{.block = 0,
                                       .name = "perf",
                                       .address = ram.address(),
                                       .length = options.size,
                                       .page_size = 4096,
                                       .access = PF_MEMORY_PUSH_SOURCE | PF_MEMORY_PULL_TARGET};
    PAGEFERRY_TRY(connection.add_memory({&block, 1}));
    if (auto ready = ask(connection, {{"op", "setup"}, {"size", options.size}, {"pull", true}}, "ready", options.timeout);
        !ready) {
        return std::unexpected(std::move(ready.error()));
    }
    std::vector<pf_extent> extents;
    for (std::uint64_t offset = 0; offset < options.size; offset += options.extent) {
        extents.push_back({.block = 0,
                           .reserved = 0,
                           .offset = offset,
                           .length = std::min(options.extent, options.size - offset),
                           .cookie = extents.size()});
    }
    const auto pull = [&]() -> Result<void> {
        return move_all(
            connection, [&](std::span<const pf_extent> some) { return connection.pull(PF_PULL_BULK, some); }, extents,
            options.in_flight, options.timeout);
    };
    const auto push = [&]() -> Result<void> {
        PAGEFERRY_TRY(move_all(
            connection, [&](std::span<const pf_extent> some) { return connection.push(some); }, extents, options.in_flight,
            options.timeout));
        return connection.fence(options.timeout);
    };
    PullReport report{.connection = connection.describe(), .pulls = {}, .pushes = {}};
    for (unsigned i = 0; i < options.warm_up + options.runs; ++i) {
        auto pulled = measure(connection, options.timeout, pull);
        if (!pulled) {
            return std::unexpected(std::move(pulled.error()));
        }
        if (const auto wrong = i == 0 ? ram.first_difference() : std::nullopt) {
            return std::unexpected(make_error(ErrorCode::io, "compare", connection.describe(),
                                              "the RAM that arrived differs from offset " + std::to_string(*wrong)));
        }
        auto pushed = measure(connection, options.timeout, push);
        if (!pushed) {
            return std::unexpected(std::move(pushed.error()));
        }
        if (i >= options.warm_up) {
            report.pulls.push_back(*pulled);
            report.pushes.push_back(*pushed);
        }
    }
    PAGEFERRY_TRY(say(connection, {{"op", "end"}}, options.timeout));
    return report;
}

} // namespace

Result<PullReport> run_pull(const PullOptions& options) {
    auto ram = SharedRam::create(options.size);
    if (!ram) {
        return std::unexpected(std::move(ram.error()));
    }
    PAGEFERRY_TRY(ram->populate());
    auto plugin = transport::load(std::string{transport::scheme_of(options.uri)});
    if (!plugin) {
        return std::unexpected(std::move(plugin.error()));
    }
    transport::Options how;
    how.lanes = options.lanes;
    how.dead_peer = options.dead_peer;
    how.session.fill(0x70);
    auto connection = plugin->open(options.uri, how);
    if (!connection) {
        return std::unexpected(std::move(connection.error()));
    }
    return pull_over(*connection, *ram, options);
}

} // namespace pageferry::perf
