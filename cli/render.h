// What people see: the live line, the lines of state changes, the summary. And what machines read: one JSON object a line.
//
// Pure: struct in, text out, no terminal and no clock. Any thread. docs/cli.md documents the JSON members.
#pragma once

#include "cli/progress.h"

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::cli {

// At most `width` columns, plain ASCII, no line end. Where there is not room for all, what matters least goes first: why a
// transport could not be used, the transport, lanes, expected downtime, dirty rate (and a transport that was fallen back to), the
// bar, bytes left, ETA, rate. In postcopy, in the place of what concerns dirty pages: faults per second and their latency.
std::string render_live_line(const ProgressView& view, std::size_t width);

struct StateChange {
    std::string status;                // or a run state event: "STOP", "RESUME"
    std::chrono::microseconds time{0}; // since 1970
    bool run_state = false;
};
// "by tcp (rdma:host:4444: no RDMA device)"; empty where the monitor says nothing of it.
std::string render_transport(const TransportView& transport);
std::string render_attempt(const TransportView::Attempt& attempt); // "rdma:host:4444: no RDMA device"
std::string render_state_line(const StateChange& change);          // "14:03:27.512  active"

struct Summary {
    Snapshot last;
    std::chrono::milliseconds watched{0}; // as long as we looked on; the monitor's total-time is preferred where there is one
    bool timed_out = false;
    History history; // as watched; the monitor's own is preferred where there is one
};
// Several lines, each with its end.
std::string render_summary(const Summary& summary);
// Bytes per second over the whole migration, from its total time (empty without figures).
std::optional<double> average_rate(const Summary& summary);

// For `status`: several lines, each with its end. next: what to type, where something is to be done.
std::string render_status(const ProgressView& view, std::string_view next = {});

// In postcopy-paused: the command that recovers. monitor: this side's; uris: where the source was told to go (empty: what the
// monitor says of the transport, or a word in its place).
std::string recovery_advice(const Snapshot& paused, std::string_view monitor, const std::vector<std::string>& uris);

std::string json_progress(const ProgressView& view);
std::string json_state(const StateChange& change);
std::string json_summary(const Summary& summary, int exit_code, std::chrono::microseconds now);

} // namespace pageferry::cli
