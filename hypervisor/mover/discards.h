// The agent's counters of discards, as the engine reads them.
//
// Threads: any.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "engine/discard_watch.h"

#include <memory>

namespace pageferry::hypervisor {

struct UnmapDiscards {
    void operator()(const engine::DiscardCounters* counters) const;
};
using MappedDiscards = std::unique_ptr<const engine::DiscardCounters, UnmapDiscards>;

// Maps them for reading. protocol: the memory is too small, or could be cut short while it is read.
Result<MappedDiscards> map_discards(const Fd& memory);

} // namespace pageferry::hypervisor
