// Which pages of the guest were written: asked of the kernel, without the hypervisor's help.
//
// The source of the semantics: Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst, Linux 6.7 and later.
// Threads: one at a time for each tracker.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "memory/extent.h"
#include "memory/ram_block.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace pageferry::memory {

struct BlockExtent {
    std::size_t block = 0; // index into the blocks given to start()
    Extent extent;
    bool operator==(const BlockExtent&) const = default;
};

class DirtyTracker {
public:
    virtual ~DirtyTracker() = default; // stops

    [[nodiscard]] virtual std::string name() const = 0; // "uffd-wp-async", "soft-dirty"

    // From here on every write to a page of these blocks is seen. Nothing counts as dirty at first. On failure nothing is left behind.
    virtual Result<void> start(std::span<const RamBlock* const> blocks) = 0;
    // Appends what was written since start() or the last collect(), and makes it clean again: a page that is written after its
    // extent was returned is dirty again. Extents are sorted by block and offset. On failure what had been made clean is returned all the
    // same, so that nothing is lost.
    virtual Result<void> collect(std::vector<BlockExtent>& dirty) = 0;
    // Bytes that collect() would return now; cleans nothing.
    virtual Result<std::uint64_t> estimate() = 0;
    // Gives the guest's mappings back as they were. Safe to call twice.
    virtual void stop() = 0;
};

// What the hypervisor handed over for tracking; either may be empty.
struct TrackingHandles {
    Fd userfaultfd; // without the API handshake (UFFDIO_API) done
    Fd pagemap;     // /proc/PID/pagemap of the hypervisor
    Fd clear_refs;  // /proc/PID/clear_refs of the hypervisor, for soft-dirty
};

// The best tracker this kernel has: uffd WP_ASYNC with PAGEMAP_SCAN (Linux 6.7), else soft-dirty, else an `unsupported` error that
// says what is missing and that only postcopy and stop-and-copy are possible.
Result<std::unique_ptr<DirtyTracker>> make_dirty_tracker(TrackingHandles handles);

} // namespace pageferry::memory
