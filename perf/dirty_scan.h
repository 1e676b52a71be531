// `pageferry-perf dirty-scan`: what a round of dirty tracking costs when the guest writes nothing.
//
// A child process plays the hypervisor: it maps the RAM, touches it, and hands over what a tracker needs. Threads: the main
// thread, before any other exists (it forks).
#pragma once

#include "base/error.h"
#include "perf/stats.h"

#include <cstdint>
#include <string>

namespace pageferry::perf {

struct DirtyScanOptions {
    std::uint64_t size = 0; // bytes of RAM
    unsigned runs = 5;
    unsigned warm_up = 1;
    bool populate = true; // the guest has touched all of its RAM
};

struct DirtyScanReport {
    std::string tracker;
    std::uint64_t size = 0;
    bool populated = false;
    double start_seconds = 0;      // DirtyTracker::start()
    Spread collect_seconds;        // an idle collect()
    std::uint64_t dirty_bytes = 0; // what the idle rounds returned: 0, or the figure is not one of idleness
};

Result<DirtyScanReport> run_dirty_scan(const DirtyScanOptions& options);

// Bytes the kernel says can still be allocated (MemAvailable).
std::uint64_t available_memory();

} // namespace pageferry::perf
