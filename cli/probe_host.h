// What this host can do: asks everything, and gives it as lines.
//
// Threads: the main thread, before any other is started (QEMUs are asked in children).
#pragma once

#include "cli/probe_finding.h"

#include <vector>

namespace pageferry::cli {

std::vector<Section> probe_host();

} // namespace pageferry::cli
