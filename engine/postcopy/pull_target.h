// What the pulls of a postcopy fill, and the faults that wait for it: shared by the fault server and the puller of the present
// connection.
#pragma once

#include "engine/control_page.h"
#include "engine/postcopy/fault_stats.h"
#include "memory/fault_regions.h"
#include "memory/page_map.h"
#include "memory/ram_block.h"

#include <span>

namespace pageferry::engine {

struct PullTarget {
    std::span<const memory::RamBlock> blocks;
    memory::PageMap& pages;
    memory::FaultRegions& faults;
    FaultStats& stats;
    ControlPage& page;
};

} // namespace pageferry::engine
