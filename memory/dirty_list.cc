#include "memory/dirty_list.h"

#include <algorithm>
#include <tuple>

namespace pageferry::memory {

void normalise_dirty(std::vector<BlockExtent>& dirty, std::size_t first) {
    const auto begin = dirty.begin() + static_cast<std::ptrdiff_t>(first);
    std::sort(begin, dirty.end(), [](const BlockExtent& a, const BlockExtent& b) {
        return std::tie(a.block, a.extent.offset) < std::tie(b.block, b.extent.offset);
    });
    auto last = begin; // the last one that stays
    for (auto next = begin; next != dirty.end(); ++next) {
        if (next == begin) {
            continue;
        }
        const std::uint64_t end = last->extent.offset + last->extent.length;
        if (last->block == next->block && next->extent.offset <= end) {
            last->extent.length = std::max(end, next->extent.offset + next->extent.length) - last->extent.offset;
        } else {
            *++last = *next;
        }
    }
    if (begin != dirty.end()) {
        dirty.erase(last + 1, dirty.end());
    }
}

} // namespace pageferry::memory
