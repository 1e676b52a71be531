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

// Extents the file has data for (SEEK_DATA, SEEK_HOLE), sorted, merged, within the block, in block offsets.
Result<std::vector<Extent>> data_extents(const RamBlock& block);

// a without b; both sorted and disjoint.
std::vector<Extent> subtract(std::span<const Extent> a, std::span<const Extent> b);

// Bytes in all of them.
std::uint64_t total_length(std::span<const Extent> extents);

// Makes the range a hole again (reads as zeros). On hugetlbfs it is zeroed in place, so that a reservation is not given back.
Result<void> discard(const RamBlock& block, Extent extent);

} // namespace pageferry::memory
