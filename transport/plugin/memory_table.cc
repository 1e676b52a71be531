#include "transport/plugin/memory_table.h"

#include <algorithm>
#include <cstring>

namespace pageferry::plugin {

namespace {

std::string title(const Block& block) {
    return "RAM block " + std::to_string(block.number) + " (" + block.name + ")";
}

const char* deed(std::uint32_t right) {
    switch (right) {
    case PF_MEMORY_PUSH_SOURCE: return "push from";
    case PF_MEMORY_PUSH_TARGET: return "be pushed into by the peer";
    case PF_MEMORY_PULL_SOURCE: return "be pulled from by the peer";
    default: return "pull into";
    }
}

} // namespace

Result<MemoryTable> MemoryTable::make(std::span<const pf_memory_block> blocks) {
    MemoryTable table;
    // The caller's structures may be larger than ours: its size is the stride.
    const auto* raw = reinterpret_cast<const std::byte*>(blocks.data());
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        pf_memory_block given{};
        std::uint32_t size = 0;
        std::memcpy(&size, raw, sizeof size);
        std::memcpy(&given, raw, std::min<std::size_t>(size, sizeof given));
        raw += size;
        const Block block{.number = given.block,
                          .name = given.name != nullptr ? given.name : "",
                          .address = static_cast<std::byte*>(given.address),
                          .length = given.length,
                          .access = given.access};
        const auto refuse = [&](std::string reason) {
            return std::unexpected{make_error(ErrorCode::invalid_argument, "add memory", title(block), std::move(reason))};
        };
        if (size < sizeof given) {
            return refuse("its structure has " + std::to_string(size) + " bytes, not " + std::to_string(sizeof given));
        }
        if (block.address == nullptr || block.length == 0) {
            return refuse("it has no address or no length");
        }
        if (given.page_size == 0 || block.length % given.page_size != 0) {
            return refuse("its length " + std::to_string(block.length) + " is no multiple of its page size " +
                          std::to_string(given.page_size));
        }
        table.blocks_.push_back(block);
    }
    std::ranges::sort(table.blocks_, {}, &Block::number);
    const auto twice = std::ranges::adjacent_find(table.blocks_, {}, &Block::number);
    if (twice != table.blocks_.end()) {
        return std::unexpected{make_error(ErrorCode::invalid_argument, "add memory", title(*twice), "its number is given twice")};
    }
    return table;
}

Result<std::byte*> MemoryTable::at(std::uint32_t block, std::uint64_t offset, std::uint64_t length, std::uint32_t right) const {
    const auto found = std::ranges::lower_bound(blocks_, block, {}, &Block::number);
    if (found == blocks_.end() || found->number != block) {
        return std::unexpected{make_error(ErrorCode::invalid_argument, "look up memory", "RAM block " + std::to_string(block),
                                          "there is no such block")};
    }
    if (offset > found->length || length == 0 || length > found->length - offset) {
        return std::unexpected{make_error(ErrorCode::invalid_argument, "look up memory", title(*found),
                                          std::to_string(length) + " bytes at " + std::to_string(offset) +
                                              " are not within its " + std::to_string(found->length) + " bytes")};
    }
    if ((found->access & right) == 0) {
        return std::unexpected{make_error(ErrorCode::permission, "look up memory", title(*found),
                                          std::string{"this side did not allow it to "} + deed(right))};
    }
    return found->address + offset;
}

Result<void> MemoryTable::check(const char* operation, std::span<const pf_extent> extents, std::uint32_t rights) const {
    for (const pf_extent& extent : extents) {
        auto address = at(extent.block, extent.offset, extent.length, rights);
        if (!address) {
            address.error().operation = operation;
            return std::unexpected{std::move(address.error())};
        }
    }
    return {};
}

} // namespace pageferry::plugin
