// The pages a source has still to push: one dirty bitmap for each RAM block, and a place to go on from.
//
// A page is taken when its push begins and put back when the push fails: no page is ever in neither place.
// Threads: one.
#pragma once

#include "memory/bitmap.h"
#include "memory/dirty_tracker.h"
#include "memory/ram_block.h"

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace pageferry::engine {

class PendingPages {
public:
    explicit PendingPages(std::span<const memory::RamBlock> blocks);

    void add(const memory::BlockExtent& extent);
    void add(std::span<const memory::BlockExtent> extents);
    // The next run of pending pages, at most `limit` bytes (but at least one page) long; none: nothing is pending.
    std::optional<memory::BlockExtent> take(std::uint64_t limit);

    // Whether every page of the run is pending.
    [[nodiscard]] bool all(std::size_t block, memory::PageRun run) const;
    // Pending pages as bits: bit N of the word at `first` + W is page 64 * (first + W) + N.
    void copy_words(std::size_t block, std::size_t first, std::span<std::uint64_t> words) const;

    [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
    [[nodiscard]] bool empty() const { return bytes_ == 0; }

private:
    struct Block {
        memory::Bitmap bitmap;
        std::uint64_t page_size;
    };
    std::vector<Block> blocks_;
    std::size_t at_block_ = 0;
    std::uint64_t at_page_ = 0;
    std::uint64_t bytes_ = 0;
};

} // namespace pageferry::engine
