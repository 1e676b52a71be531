// Builds the sorted, merged list that DirtyTracker::collect() appends to.
//
// Pure; one thread at a time.
#pragma once

#include "memory/dirty_tracker.h"

#include <cstddef>
#include <vector>

namespace pageferry::memory {

// Adds an extent that does not begin before the end of the last one of the same block, joining it where they meet. Extents before
// `first` are the caller's own and are left alone.
inline void append_dirty(std::vector<BlockExtent>& dirty, std::size_t first, BlockExtent next) {
    if (dirty.size() > first && dirty.back().block == next.block &&
        dirty.back().extent.offset + dirty.back().extent.length == next.extent.offset) {
        dirty.back().extent.length += next.extent.length;
    } else {
        dirty.push_back(next);
    }
}

// Sorts and merges, overlaps too, what stands at `first` and after it.
void normalise_dirty(std::vector<BlockExtent>& dirty, std::size_t first);

} // namespace pageferry::memory
