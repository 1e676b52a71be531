// What the running kernel can do for dirty tracking, tried on memory of our own.
//
// Any thread; each call makes and unmakes a few pages.
#pragma once

#include "base/error.h"

namespace pageferry::memory {

struct WriteProtectProbe {
    // PAGEMAP_SCAN says "written" of a range that has no page table. Kernels differ; where it does not, such ranges are asked for
    // apart.
    bool holes_count_as_written = false;
};

// Errors: `unsupported`, with the reason, where the kernel lacks WP_ASYNC for shared memory or PAGEMAP_SCAN. `pagemap` is the
// descriptor that will be used.
Result<WriteProtectProbe> probe_write_protect(int pagemap);

// Errors: `unsupported`, where soft-dirty bits do not follow writes (no CONFIG_MEM_SOFT_DIRTY).
Result<void> probe_soft_dirty();

} // namespace pageferry::memory
