// `pageferry probe URI`: loads the transport and connects as a source would, one phase after the other.
//
// Threads: the calling one.
#pragma once

#include "cli/probe.h"
#include "cli/probe_report.h"

#include <functional>

namespace pageferry::cli {

// told: of each phase when it is over.
ProbeReport probe_connection(const ProbeOptions& options, const std::function<void(const ProbePhase&)>& told);

} // namespace pageferry::cli
