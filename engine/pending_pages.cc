#include "engine/pending_pages.h"

#include <algorithm>

namespace pageferry::engine {

PendingPages::PendingPages(std::span<const memory::RamBlock> blocks) {
    blocks_.reserve(blocks.size());
    for (const auto& block : blocks) {
        blocks_.push_back(Block{.bitmap = memory::Bitmap{block.pages()}, .page_size = block.info().page_size});
    }
}

void PendingPages::add(const memory::BlockExtent& extent) {
    auto& block = blocks_[extent.block];
    const memory::PageRun run{.first = extent.extent.offset / block.page_size, .count = extent.extent.length / block.page_size};
    bytes_ += block.bitmap.set_run(run) * block.page_size;
}

void PendingPages::add(std::span<const memory::BlockExtent> extents) {
    for (const auto& extent : extents) {
        add(extent);
    }
}

std::optional<memory::BlockExtent> PendingPages::take(std::uint64_t limit) {
    if (bytes_ == 0) {
        return std::nullopt;
    }
    // From where the last one ended to the end, then once around from the start.
    for (std::size_t looked = 0; looked <= blocks_.size(); ++looked) {
        auto& block = blocks_[at_block_];
        const std::uint64_t most = std::max<std::uint64_t>(limit / block.page_size, 1);
        if (const auto run = block.bitmap.next_set_run(at_page_, most)) {
            const std::uint64_t taken = block.bitmap.clear_run(*run) * block.page_size;
            bytes_ -= taken;
            at_page_ = run->first + run->count;
            return memory::BlockExtent{
                .block = at_block_, .extent = {.offset = run->first * block.page_size, .length = run->count * block.page_size}};
        }
        at_block_ = (at_block_ + 1) % blocks_.size();
        at_page_ = 0;
    }
    return std::nullopt;
}

bool PendingPages::all(std::size_t block, memory::PageRun run) const {
    const auto other = blocks_[block].bitmap.next_clear_run(run.first, 1);
    return !other || other->first >= run.first + run.count;
}

void PendingPages::copy_words(std::size_t block, std::size_t first, std::span<std::uint64_t> words) const {
    for (std::size_t word = 0; word < words.size(); ++word) {
        words[word] = blocks_[block].bitmap.word(first + word);
    }
}

} // namespace pageferry::engine
