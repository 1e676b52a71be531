// Dirty tracking by asynchronous userfaultfd write-protection and PAGEMAP_SCAN (Linux 6.7).
//
// Threads: as DirtyTracker.
#pragma once

#include "memory/dirty_tracker.h"
#include "memory/kernel_probe.h"

#include <memory>

namespace pageferry::memory {

std::unique_ptr<DirtyTracker> make_uffd_tracker(Fd userfaultfd, Fd pagemap, WriteProtectProbe probe);

} // namespace pageferry::memory
