// Which pages of the guest were written: asked of the kernel, without the hypervisor's help.
//
// The source of the semantics: Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst, Linux 6.7 and later, and the
// experiments in docs/decisions/dirty-tracking.md. What is seen: every write through the hypervisor's own mapping (vCPUs, device
// models, system calls). What is not: writes through another mapping of the file (ours, a vhost-user backend's), DMA into pages
// that were pinned before the start, and a page turned back into a hole. Threads: one at a time for each tracker.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "memory/extent.h"
#include "memory/ram_block.h"

#include <cstddef>
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
    DirtyTracker() = default;
    DirtyTracker(const DirtyTracker&) = delete;
    DirtyTracker& operator=(const DirtyTracker&) = delete;
    virtual ~DirtyTracker() = default; // stops

    [[nodiscard]] virtual std::string name() const = 0; // "uffd-wp-async", "soft-dirty"

    // From here on every write to a page of these blocks is seen. Nothing counts as dirty at first. On failure nothing is left
    // behind. The blocks need their guest_address, and outlive the tracking. A tracker that is stopped may be started again.
    virtual Result<void> start(std::span<const RamBlock* const> blocks) = 0;
    // Appends what was written since start() or the last collect(), and makes it clean again: a page that is written after its
    // extent was returned is dirty again. It may return more than that, never less ("soft-dirty": all since start()). Copy the
    // pages after the call, not before. Extents are sorted by block and offset, and merged. On failure what had been made clean
    // is returned all the same, so that nothing is lost.
    virtual Result<void> collect(std::vector<BlockExtent>& dirty) = 0;
    // The same for a part of one block, which begins and ends with a page.
    virtual Result<void> collect_part(std::size_t block, Extent part, std::vector<BlockExtent>& dirty) = 0;
    // Whether a look at a part is less work than one at the whole block.
    [[nodiscard]] virtual bool cheap_in_parts() const = 0;
    // Bytes that collect() would return now; cleans nothing.
    virtual Result<std::uint64_t> estimate() = 0;
    // Gives the guest's mappings back as they were. Safe to call twice.
    virtual void stop() = 0;
};

// What the hypervisor handed over for tracking; each may be empty.
struct TrackingHandles {
    // Created in the hypervisor. One descriptor serves for all its migrations, one after the other: each new mover is given a
    // duplicate. The API handshake (UFFDIO_API) works once for each userfaultfd, so the first start() does it and later ones find
    // it done; start() checks afterwards, by what the kernel says of the registered mapping, that it was done with the features
    // needed here. A tracker that ends without stop() (its process was killed) leaves the guest running: WP_ASYNC faults wait for
    // nobody.
    Fd userfaultfd;
    Fd pagemap;    // /proc/PID/pagemap of the hypervisor, opened by itself or with the right to trace it
    Fd clear_refs; // /proc/PID/clear_refs of the hypervisor, for soft-dirty
};

// The best tracker this kernel has: uffd WP_ASYNC with PAGEMAP_SCAN (Linux 6.7), else soft-dirty, else an `unsupported` error
// that says what is missing and that only postcopy and stop-and-copy are possible.
Result<std::unique_ptr<DirtyTracker>> make_dirty_tracker(TrackingHandles handles);

} // namespace pageferry::memory
