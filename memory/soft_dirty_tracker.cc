#include "memory/soft_dirty_tracker.h"

#include "memory/dirty_list.h"
#include "memory/pagemap.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace pageferry::memory {

namespace {

class SoftDirtyTracker final : public DirtyTracker {
public:
    SoftDirtyTracker(Fd pagemap, Fd clear_refs)
        : pagemap_(std::move(pagemap)), clear_refs_(std::move(clear_refs)), entries_(8192) {} // 64 KiB, allocated once

    [[nodiscard]] std::string name() const override { return "soft-dirty"; }
    Result<void> start(std::span<const RamBlock* const> blocks) override;
    Result<void> collect(std::vector<BlockExtent>& dirty) override;
    Result<void> collect_part(std::size_t index, Extent part, std::vector<BlockExtent>& dirty) override;
    // Where a block's file has data is asked for the whole block: the kernel looks for the end of data page by page.
    [[nodiscard]] bool cheap_in_parts() const override { return false; }
    Result<std::uint64_t> estimate() override;
    void stop() override { blocks_.clear(); }

private:
    Result<void> collect_extent(std::size_t index, Extent extent, std::size_t first, std::vector<BlockExtent>& dirty);

    Fd pagemap_;
    Fd clear_refs_;
    std::vector<std::uint64_t> entries_;
    std::vector<const RamBlock*> blocks_;
};

bool is_dirty(std::uint64_t entry) {
    return (entry & pagemap_soft_dirty) != 0 || (entry & (pagemap_present | pagemap_swapped)) == 0;
}

Result<void> SoftDirtyTracker::start(std::span<const RamBlock* const> blocks) {
    if (!blocks_.empty()) {
        return std::unexpected(make_error(ErrorCode::state, "start", "dirty tracking", "it is started already"));
    }
    for (const RamBlock* block : blocks) {
        if (block->is_hugetlb()) {
            return std::unexpected(make_error(ErrorCode::unsupported, "start dirty tracking", "RAM block " + block->info().name,
                                              "soft-dirty does not see huge pages",
                                              "use Linux 6.7, or a memory backend of normal pages; only postcopy and "
                                              "stop-and-copy are possible here"));
        }
        if (block->info().guest_address == 0) {
            return std::unexpected(make_error(ErrorCode::invalid_argument, "start dirty tracking",
                                              "RAM block " + block->info().name, "its address in the hypervisor is not known"));
        }
    }
    if (::pwrite(clear_refs_.get(), "4", 1, 0) != 1) {
        return std::unexpected(errno_error(errno, "clear soft-dirty bits", "the hypervisor's clear_refs"));
    }
    blocks_.assign(blocks.begin(), blocks.end());
    return {};
}

Result<void> SoftDirtyTracker::collect_extent(std::size_t index, Extent extent, std::size_t first,
                                              std::vector<BlockExtent>& dirty) {
    const RamBlockInfo& info = blocks_[index]->info();
    for (std::uint64_t offset = extent.offset; offset < extent.offset + extent.length;) {
        const std::uint64_t count =
            std::min<std::uint64_t>(entries_.size(), (extent.offset + extent.length - offset) / info.page_size);
        const std::uint64_t bytes = count * sizeof entries_[0];
        const std::uint64_t where = (info.guest_address + offset) / info.page_size * sizeof entries_[0];
        const ssize_t got = ::pread(pagemap_.get(), entries_.data(), bytes, static_cast<off_t>(where));
        if (got < 0) {
            return std::unexpected(errno_error(errno, "read pagemap", "RAM block " + info.name));
        }
        if (static_cast<std::uint64_t>(got) != bytes) {
            return std::unexpected(make_error(ErrorCode::io, "read pagemap", "RAM block " + info.name,
                                              "it ends before the block does: the hypervisor has ended"));
        }
        for (std::uint64_t i = 0; i < count; ++i, offset += info.page_size) {
            if (is_dirty(entries_[i])) {
                append_dirty(dirty, first, {.block = index, .extent = {.offset = offset, .length = info.page_size}});
            }
        }
    }
    return {};
}

Result<void> SoftDirtyTracker::collect(std::vector<BlockExtent>& dirty) {
    for (std::size_t index = 0; index < blocks_.size(); ++index) {
        if (auto collected = collect_part(index, {.offset = 0, .length = blocks_[index]->info().length}, dirty); !collected) {
            return collected;
        }
    }
    return {};
}

Result<void> SoftDirtyTracker::collect_part(std::size_t index, Extent part, std::vector<BlockExtent>& dirty) {
    const std::size_t first = dirty.size();
    // A hole has nothing to send. Pages filled after this look are seen by the next collect().
    const auto extents = data_extents(*blocks_[index]);
    if (!extents) {
        return std::unexpected(extents.error());
    }
    for (const Extent& extent : *extents) {
        const std::uint64_t begin = std::max(extent.offset, part.offset);
        const std::uint64_t end = std::min(extent.offset + extent.length, part.offset + part.length);
        if (begin >= end) {
            continue;
        }
        if (auto collected = collect_extent(index, {.offset = begin, .length = end - begin}, first, dirty); !collected) {
            return collected;
        }
    }
    return {};
}

Result<std::uint64_t> SoftDirtyTracker::estimate() {
    std::vector<BlockExtent> dirty;
    if (auto collected = collect(dirty); !collected) {
        return std::unexpected(collected.error());
    }
    std::uint64_t bytes = 0;
    for (const BlockExtent& entry : dirty) {
        bytes += entry.extent.length;
    }
    return bytes;
}

} // namespace

std::unique_ptr<DirtyTracker> make_soft_dirty_tracker(Fd pagemap, Fd clear_refs) {
    return std::make_unique<SoftDirtyTracker>(std::move(pagemap), std::move(clear_refs));
}

} // namespace pageferry::memory
