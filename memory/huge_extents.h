// Where a hugetlbfs file has pages.
//
// hugetlbfs does not implement SEEK_DATA, mincore() sees only what the caller has mapped, and touching a hole fills it. But
// UFFDIO_CONTINUE maps a page that the page cache has and answers EFAULT where it has none, without filling anything.
//
// Any thread.
#pragma once

#include "memory/extent.h"

#include <vector>

namespace pageferry::memory {

// As data_extents(), for a block on hugetlbfs. What cannot be found out counts as data.
std::vector<Extent> huge_data_extents(const RamBlock& block);

} // namespace pageferry::memory
