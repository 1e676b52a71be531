#include "perf/push.h"

#include "perf/measure.h"
#include "perf/push_protocol.h"
#include "perf/shared_ram.h"
#include "transport/loader.h"
#include "transport/uri.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <thread>

namespace pageferry::perf {

namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

std::vector<pf_extent> cut(std::uint64_t size, std::uint64_t extent) {
    std::vector<pf_extent> extents;
    for (std::uint64_t offset = 0; offset < size; offset += extent) {
        extents.push_back(pf_extent{
            .block = 0, .reserved = 0, .offset = offset, .length = std::min(extent, size - offset), .cookie = extents.size()});
    }
    return extents;
}

double seconds_since(steady_clock::time_point begin) {
    return std::chrono::duration<double>(steady_clock::now() - begin).count();
}

// Pushes all, takes all completions, waits for the fence. first: when the first completion came, if it is not known yet.
Result<void> push_all(transport::Connection& connection, std::span<const pf_extent> extents, milliseconds timeout,
                      std::optional<steady_clock::time_point>& first) {
    std::array<pf_completion, 64> done{};
    std::size_t completed = 0;
    const std::size_t wanted = extents.size();
    auto last_progress = steady_clock::now();
    while (completed < wanted) {
        std::size_t accepted = 0;
        if (!extents.empty()) {
            const auto taken = connection.push(extents);
            if (!taken) {
                return std::unexpected(taken.error());
            }
            accepted = *taken;
            extents = extents.subspan(accepted);
        }
        // With something to push, the queue is full now: wait for a place in it. The fence waits for the rest.
        const auto finished = connection.poll(done, milliseconds{accepted > 0 ? 0 : 100});
        if (!finished) {
            return std::unexpected(finished.error());
        }
        for (const pf_completion& completion : std::span{done}.first(*finished)) {
            if (completion.status != PF_OK) {
                return std::unexpected(
                    make_error(static_cast<ErrorCode>(completion.status), "push", connection.describe(), "A push failed"));
            }
        }
        completed += *finished;
        if (completed > 0 && !first) {
            first = steady_clock::now();
        }
        const auto now = steady_clock::now();
        if (accepted > 0 || *finished > 0) {
            last_progress = now;
        } else if (now - last_progress > timeout) {
            return std::unexpected(make_error(ErrorCode::timed_out, "push", connection.describe(), "Nothing moves",
                                              "see whether the other side still runs"));
        }
    }
    return connection.fence(timeout);
}

const char* phase_name(pf_phase phase) {
    switch (phase) {
    case PF_PHASE_RESOLVING_ADDRESS: return "resolving-address";
    case PF_PHASE_RESOLVING_ROUTE: return "resolving-route";
    case PF_PHASE_CONNECTING: return "connecting";
    case PF_PHASE_HANDSHAKE: return "handshake";
    case PF_PHASE_ESTABLISHED: return "established";
    }
    return "unknown";
}

// All of it, over a connection that has yet to be made.
Result<PushReport> push_over(transport::Connection& connection, const SharedRam& ram, const PushOptions& options) {
    PushReport report;
    const auto begin = steady_clock::now();
    const auto step = [&](const char* name) { report.steps.push_back({.name = name, .seconds = seconds_since(begin)}); };
    if (auto connected =
            connection.connect(options.timeout, [&](pf_phase phase, const std::string&) { step(phase_name(phase)); });
        !connected) {
        return std::unexpected(std::move(connected.error()));
    }
    step("add-memory");
    const transport::MemoryBlock block{.block = 0,
                                       .name = "perf",
                                       .address = ram.address(),
                                       .length = options.size,
                                       .page_size = 4096,
                                       .access = PF_MEMORY_PUSH_SOURCE};
    if (auto added = connection.add_memory({&block, 1}); !added) {
        return std::unexpected(std::move(added.error()));
    }
    step("peer-memory");
    if (auto ready =
            ask(connection, {{"op", "setup"}, {"size", options.size}, {"fresh", options.fresh}}, "ready", options.timeout);
        !ready) {
        return std::unexpected(std::move(ready.error()));
    }

    step("ready");
    report.connection = connection.describe();
    const std::vector<pf_extent> extents = cut(options.size, options.extent);
    if (options.prepare) {
        if (auto told = connection.prepare(extents); !told) {
            return std::unexpected(std::move(told.error()));
        }
    }
    if (options.idle > 0) {
        auto idle = measure(connection, options.timeout, [&]() -> Result<void> {
            std::this_thread::sleep_for(std::chrono::duration<double>{options.idle});
            return {};
        });
        if (!idle) {
            return std::unexpected(std::move(idle.error()));
        }
        report.idle = *idle;
    }
    std::optional<steady_clock::time_point> first;
    for (unsigned i = 0; i < options.warm_up + options.runs; ++i) {
        auto run = measure(connection, options.timeout, [&] { return push_all(connection, extents, options.timeout, first); });
        report.first_push = first ? std::chrono::duration<double>(*first - begin).count() : 0;
        if (!run) {
            return std::unexpected(std::move(run.error()));
        }
        if (i >= options.warm_up) {
            report.runs.push_back(*run);
        }
    }
    if (options.verify) {
        if (auto verified = ask(connection, {{"op", "verify"}}, "verified", options.timeout); !verified) {
            return std::unexpected(std::move(verified.error()));
        }
    }
    report.wire_bytes = connection.counters().wire_bytes;
    if (auto ended = say(connection, {{"op", "end"}}, options.timeout); !ended) {
        return std::unexpected(std::move(ended.error()));
    }
    return report;
}

} // namespace

Result<PushReport> run_push(const PushOptions& options) {
    auto ram = SharedRam::create(options.size);
    if (!ram) {
        return std::unexpected(std::move(ram.error()));
    }
    if (auto populated = ram->populate(); !populated) {
        return std::unexpected(std::move(populated.error()));
    }
    ram->fill();

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
    auto report = push_over(*connection, *ram, options);
    if (!report && options.failed) {
        options.failed(report.error());
    }
    return report;
}

} // namespace pageferry::perf
