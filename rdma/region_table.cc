#include "rdma/region_table.h"

#include <algorithm>

namespace pageferry::rdma {

RegionTable::RegionTable(std::span<const Block> blocks, std::uint64_t largest)
    : chunk_(std::max(granule, std::min(max_chunk, largest) / granule * granule)) {
    for (const Block& block : blocks) {
        blocks_.push_back(Granules{
            .block = block,
            .region = std::vector<std::uint32_t>(static_cast<std::size_t>((block.length + granule - 1) / granule), none)});
    }
}

RegionTable::Granules* RegionTable::granules_of(std::uint32_t block) {
    const auto found = std::ranges::lower_bound(blocks_, block, {}, [](const Granules& one) { return one.block.number; });
    return found != blocks_.end() && found->block.number == block ? &*found : nullptr;
}

void RegionTable::cover(std::uint32_t block, std::uint64_t offset, std::uint64_t length, std::vector<std::uint32_t>& added) {
    Granules* const here = granules_of(block);
    if (here == nullptr || length == 0) {
        return;
    }
    const std::uint64_t last = (offset + length - 1) / granule;
    const bool pulled = (here->block.access & PF_MEMORY_PULL_TARGET) != 0;
    const std::uint64_t in_chunk = (pulled ? std::min(chunk_, max_pull_chunk) : chunk_) / granule;
    for (std::uint64_t first = offset / granule; first <= last;) {
        if (here->region[first] != none) {
            ++first;
            continue;
        }
        const std::uint64_t limit = std::min(last, first / in_chunk * in_chunk + in_chunk - 1); // last granule of this chunk
        std::uint64_t end = first;
        const auto number = static_cast<std::uint32_t>(regions_.size());
        for (; end <= limit && here->region[end] == none; ++end) {
            here->region[end] = number;
        }
        const std::uint64_t start = first * granule;
        regions_.push_back(Region{.number = number,
                                  .block = block,
                                  .offset = start,
                                  .length = std::min(end * granule, here->block.length) - start,
                                  .address = here->block.address + start,
                                  .access = here->block.access});
        added.push_back(number);
        first = end;
    }
}

Region* RegionTable::find(std::uint32_t block, std::uint64_t offset) {
    Granules* const here = granules_of(block);
    if (here == nullptr || offset >= here->block.length) {
        return nullptr;
    }
    const std::uint32_t number = here->region[offset / granule];
    return number == none ? nullptr : &regions_[number];
}

} // namespace pageferry::rdma
