// The kernel's PAGEMAP_SCAN, and the bits of /proc/PID/pagemap.
//
// Threads: a scanner belongs to one thread at a time.
#pragma once

#include "base/error.h"
#include "memory/kernel_abi.h"

#include <cstdint>
#include <span>
#include <vector>

namespace pageferry::memory {

inline constexpr std::uint64_t pagemap_soft_dirty = std::uint64_t{1} << 55;
inline constexpr std::uint64_t pagemap_swapped = std::uint64_t{1} << 62;
inline constexpr std::uint64_t pagemap_present = std::uint64_t{1} << 63;

// What a userfaultfd must be able to do for dirty tracking of shared memory.
inline constexpr std::uint64_t write_protect_features =
    UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC;

struct AddressRange {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    [[nodiscard]] std::uint64_t length() const { return end - start; }
};

// Pages for which every bit of `mask` is set, after those in `inverted` have been turned round.
struct ScanCondition {
    std::uint64_t mask = 0;
    std::uint64_t inverted = 0;
};

// Exactly this form takes the kernel's fast path, which also reports page table entries that are none.
inline constexpr ScanCondition written{.mask = PAGE_IS_WRITTEN, .inverted = 0};
// Neither mapped nor write-protected as a hole, and not reported as written: its entry, or the whole page table, was dropped.
inline constexpr ScanCondition dropped{.mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_WRITTEN,
                                       .inverted = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_WRITTEN};
// In a mapping whose userfaultfd has WP_ASYNC.
inline constexpr ScanCondition write_protect_allowed{.mask = PAGE_IS_WPALLOWED, .inverted = 0};

class PagemapScanner {
public:
    explicit PagemapScanner(int pagemap) : pagemap_(pagemap), regions_(4096) {} // 96 KiB, allocated once

    // Calls visit(AddressRange) -> Result<void> for each matching range, in order of address. It ends at the first error, the
    // kernel's or the visitor's. Changes nothing in the scanned process.
    template <class Visit>
    Result<void> each(AddressRange range, ScanCondition condition, Visit visit) {
        while (range.start < range.end) {
            const auto found = next(range, condition);
            if (!found) {
                return std::unexpected(found.error());
            }
            for (const page_region& region : *found) {
                if (auto visited = visit(AddressRange{.start = region.start, .end = region.end}); !visited) {
                    return visited;
                }
            }
        }
        return {};
    }

private:
    // One call into the kernel; moves range.start to where it came to.
    Result<std::span<const page_region>> next(AddressRange& range, ScanCondition condition);

    int pagemap_;
    std::vector<page_region> regions_;
};

} // namespace pageferry::memory
