// Ranges of a RAM block, and where a block's file has data.
//
// Pure functions and system calls without shared state; any thread.
#pragma once

#include "base/error.h"
#include "memory/ram_block.h"

#include <cstdint>
#include <span>
#include <vector>

namespace pageferry::memory {

struct Extent {
    std::uint64_t offset = 0; // bytes from the block's start, page-aligned
    std::uint64_t length = 0; // bytes, page-aligned, > 0
    bool operator==(const Extent&) const = default;
};

// Extents the file has data for, sorted, merged, within the block, in block offsets. What is not in them reads as zeros at the
// moment of the call; with a running guest, start the dirty tracker first, so that what is filled in meanwhile counts as dirty.
// tmpfs: SEEK_DATA and SEEK_HOLE. hugetlbfs answers "all data" to those, so each page is looked up with UFFDIO_CONTINUE on a
// mapping of our own; where this process may have no userfaultfd, the whole block counts as data: correct, but holes are sent.
Result<std::vector<Extent>> data_extents(const RamBlock& block);

// a without b; both sorted and disjoint.
std::vector<Extent> subtract(std::span<const Extent> a, std::span<const Extent> b);

// Bytes in all of them.
std::uint64_t total_length(std::span<const Extent> extents);

// Makes the range a hole again (reads as zeros). On hugetlbfs what is not zero is zeroed in place, so that a reservation is not
// given back, and a hole stays one. Errors: `invalid_argument` for a range that is not page-aligned or not in the block;
// fallocate's.
Result<void> discard(const RamBlock& block, Extent extent);

} // namespace pageferry::memory
