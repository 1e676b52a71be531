// What `pageferry probe` found, as text for people and JSON for tools.
//
// Pure: struct in, text out. Any thread. docs/cli.md documents the JSON members.
#pragma once

#include "cli/probe_finding.h"
#include "cli/probe_report.h"

#include <chrono>
#include <string>
#include <vector>

namespace pageferry::cli {

// A title a section, below it a line for each finding: what, value, and "ok" or "no: why; what to do".
std::string render_sections(const std::vector<Section>& sections);
std::string json_sections(const std::vector<Section>& sections);

// The parts of a connection's report, in the order in which they become known; each is whole lines.
std::string render_phase(const ProbePhase& phase);
std::string render_outcome(const ProbeReport& report); // what comes after the phases
std::string json_report(const ProbeReport& report);

// "0.084 ms", "12.3 ms", "1.20 s"
std::string format_short(std::chrono::microseconds time);

} // namespace pageferry::cli
