// How large the file of a page map is (page_map.h): for who makes it and does not look into it.
//
// Pure; any thread.
#pragma once

#include "memory/ram_block.h"

#include <cstdint>
#include <span>

namespace pageferry::memory {

// For each block a received and a wanted bitmap, in words of 64 pages. Page sizes are known (not 0).
inline std::uint64_t page_map_bytes(std::span<const RamBlockInfo> blocks) {
    std::uint64_t words = 0;
    for (const auto& block : blocks) {
        words += 2 * ((block.length / block.page_size + 63) / 64);
    }
    return words * sizeof(std::uint64_t);
}

} // namespace pageferry::memory
