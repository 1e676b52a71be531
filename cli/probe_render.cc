#include "cli/probe_render.h"

#include "cli/probe_sections.h"
#include "cli/units.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

namespace pageferry::cli {

namespace {

using nlohmann::json;

constexpr std::size_t widest_value = 60; // a longer one does not push the verdicts of all others to the right
constexpr std::size_t name_width = 18;   // of a phase
constexpr std::size_t time_width = 10;

std::string padded(std::string text, std::size_t width) {
    text.resize(std::max(text.size(), width), ' ');
    return text;
}

std::string without_trailing_blanks(std::string line) {
    line.erase(line.find_last_not_of(' ') + 1);
    return line + "\n";
}

std::string why(const std::string& reason, const std::string& remedy) {
    return "no: " + reason + (remedy.empty() ? "" : "; " + remedy);
}

std::string verdict(const Finding& line) {
    switch (line.verdict) {
    case Finding::Verdict::none: return {};
    case Finding::Verdict::ok: return "ok";
    case Finding::Verdict::no: break;
    }
    return why(line.reason, line.remedy);
}

std::string entry(const std::string& name, const std::string& value) {
    return without_trailing_blanks("  " + padded(name, name_width) + value);
}

double rate(std::uint64_t bytes, std::chrono::microseconds time) {
    return static_cast<double>(bytes) / std::max(std::chrono::duration<double>{time}.count(), 1e-6);
}

double milliseconds(std::chrono::microseconds time) {
    return static_cast<double>(time.count()) / 1000;
}

json finding_json(const Finding& line) {
    json one{{"what", line.what}, {"value", line.value}};
    if (line.bytes) {
        one["bytes"] = *line.bytes;
    }
    if (line.verdict != Finding::Verdict::none) {
        one["ok"] = line.verdict == Finding::Verdict::ok;
    }
    if (line.verdict == Finding::Verdict::no) {
        one["reason"] = line.reason;
        one["remedy"] = line.remedy;
    }
    return one;
}

std::string line_of(const json& object) {
    return object.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

} // namespace

std::string format_short(std::chrono::microseconds time) {
    const double ms = milliseconds(time);
    std::array<char, 32> text{};
    if (ms >= 1000) {
        std::snprintf(text.data(), text.size(), "%.2f s", ms / 1000);
    } else {
        std::snprintf(text.data(), text.size(), ms < 10 ? "%.3f ms" : "%.1f ms", ms);
    }
    return text.data();
}

std::string render_sections(const std::vector<Section>& sections) {
    std::string text;
    for (const Section& section : sections) {
        if (section.findings.empty()) {
            continue;
        }
        std::size_t names = 0;
        std::size_t values = 0;
        for (const Finding& line : section.findings) {
            names = std::max(names, line.what.size());
            values = std::max(values, std::min(line.value.size(), widest_value));
        }
        text += (text.empty() ? "" : "\n") + section.title + "\n";
        for (const Finding& line : section.findings) {
            text += without_trailing_blanks("  " + padded(line.what, names) + "  " + padded(line.value, values) + "  " +
                                            verdict(line));
        }
    }
    return text;
}

std::string json_sections(const std::vector<Section>& sections) {
    json all = json::array();
    for (const Section& section : sections) {
        json one{{"title", section.title}, {"findings", json::array()}};
        for (const Finding& line : section.findings) {
            one["findings"].push_back(finding_json(line));
        }
        if (auto details = json::parse(section.details, nullptr, false); details.is_object()) {
            one["details"] = std::move(details);
        }
        all.push_back(std::move(one));
    }
    return line_of({{"type", "host"}, {"sections", std::move(all)}});
}

std::string render_phase(const ProbePhase& phase) {
    return entry(phase.name, padded(format_short(phase.took), time_width) + "  " + phase.detail);
}

std::string render_outcome(const ProbeReport& report) {
    std::string text;
    if (!report.connection.empty()) {
        text += entry("connection", report.connection);
    }
    if (report.peer != ProbeReport::Peer::unknown) {
        text += entry("peer", report.software + (report.peer == ProbeReport::Peer::listener
                                                     ? ", pageferry probe --listen"
                                                     : ", a destination that waits for its migration; it goes on waiting"));
    }
    if (report.round_trips) {
        const RoundTrips& trips = *report.round_trips;
        text += entry("round trip", "median " + format_short(trips.median) + ", least " + format_short(trips.least) + ", most " +
                                        format_short(trips.most) + ", of " + std::to_string(trips.count));
    }
    if (report.push) {
        const PushFigures& push = *report.push;
        text +=
            entry("push", format_size(push.bytes) + " in " + format_short(push.again) + ", " +
                              format_rate(rate(push.bytes, push.again)) + " (the first time " + format_short(push.first) + ")");
    }
    if (report.error) {
        text += entry(report.failed_in, why(reason_of(*report.error), report.error->remedy));
    } else {
        text += "ok\n";
    }
    return text;
}

std::string json_report(const ProbeReport& report) {
    json all{{"type", "connection"}, {"uri", report.uri}, {"ok", report.ok()}, {"phases", json::array()}};
    for (const ProbePhase& phase : report.phases) {
        all["phases"].push_back({{"phase", phase.name}, {"ms", milliseconds(phase.took)}, {"detail", phase.detail}});
    }
    if (!report.transport.empty()) {
        all["transport"] = {{"name", report.transport}, {"plugin", report.plugin}};
    }
    if (!report.connection.empty()) {
        all["connection"] = report.connection;
        all["lanes"] = report.lanes;
    }
    if (report.peer != ProbeReport::Peer::unknown) {
        all["peer"] = {{"kind", report.peer == ProbeReport::Peer::listener ? "probe" : "destination"},
                       {"software", report.software}};
    }
    if (report.round_trips) {
        const RoundTrips& trips = *report.round_trips;
        all["round_trip_ms"] = {{"count", trips.count},
                                {"least", milliseconds(trips.least)},
                                {"median", milliseconds(trips.median)},
                                {"most", milliseconds(trips.most)}};
    }
    if (report.push) {
        const PushFigures& push = *report.push;
        all["push"] = {{"bytes", push.bytes},
                       {"first_ms", milliseconds(push.first)},
                       {"ms", milliseconds(push.again)},
                       {"bytes_per_second", rate(push.bytes, push.again)}};
    }
    if (report.error) {
        const Error& error = *report.error;
        all["error"] = {{"phase", report.failed_in},    {"code", std::string{name_of(error.code)}},
                        {"operation", error.operation}, {"object", error.object},
                        {"native", error.native},       {"reason", reason_of(error)},
                        {"remedy", error.remedy}};
    }
    return line_of(all);
}

} // namespace pageferry::cli
