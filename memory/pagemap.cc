#include "memory/pagemap.h"

#include <cerrno>

namespace pageferry::memory {

Result<std::span<const page_region>> PagemapScanner::next(AddressRange& range, ScanCondition condition) {
    pm_scan_arg scan = {};
    scan.size = sizeof scan;
    scan.start = range.start;
    scan.end = range.end;
    scan.vec = reinterpret_cast<std::uint64_t>(regions_.data());
    scan.vec_len = regions_.size();
    scan.category_mask = condition.mask;
    scan.category_inverted = condition.inverted;
    scan.return_mask = condition.mask;
    int count = 0;
    do {
        count = ::ioctl(pagemap_, PAGEMAP_SCAN, &scan);
    } while (count < 0 && errno == EINTR);
    if (count < 0) {
        const int number = errno;
        return std::unexpected(
            errno_error(number, "PAGEMAP_SCAN", "the hypervisor's memory", number == ESRCH ? "the hypervisor has ended" : ""));
    }
    if (scan.walk_end <= range.start) {
        return std::unexpected(
            make_error(ErrorCode::internal, "PAGEMAP_SCAN", "the hypervisor's memory", "the kernel's scan does not get on"));
    }
    range.start = scan.walk_end;
    return std::span<const page_region>{regions_}.first(static_cast<std::size_t>(count));
}

} // namespace pageferry::memory
