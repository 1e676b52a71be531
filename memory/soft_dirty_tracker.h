// Dirty tracking by soft-dirty bits, for kernels before 6.7.
//
// The bits can be read and can be cleared (for the whole process), but not both in one step: what the guest writes between the
// two would be lost. So they are cleared once, by start(), and collect() returns all that was written since then. Rounds get no
// smaller than that; the result is correct all the same. A page table entry of shared memory that is dropped (reclaim,
// MADV_DONTNEED) takes its soft-dirty bit along. So a page that has data and is not mapped counts as dirty. hugetlbfs has no
// soft-dirty bits: refused by start().
//
// Threads: as DirtyTracker.
#pragma once

#include "memory/dirty_tracker.h"

#include <memory>

namespace pageferry::memory {

// Any files with the layout of /proc/PID/pagemap and /proc/PID/clear_refs.
std::unique_ptr<DirtyTracker> make_soft_dirty_tracker(Fd pagemap, Fd clear_refs);

} // namespace pageferry::memory
