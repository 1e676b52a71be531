#include "memory/page_map.h"

#include "memory/page_map_layout.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <bit>
#include <cerrno>
#include <string>
#include <utility>

namespace pageferry::memory {

struct PageMap::Mapping {
    struct Block {
        Bitmap received, wanted;
        std::uint64_t page_size; // bytes
    };

    Mapping(void* at, std::uint64_t bytes) : address(at), length(bytes) {}
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping() {
        if (address != nullptr) {
            ::munmap(address, length);
        }
    }
    void count() {
        std::uint64_t bytes = 0;
        for (const Block& block : blocks) {
            bytes += (block.received.pages() - block.received.count()) * block.page_size;
        }
        missing.store(bytes, std::memory_order_relaxed);
    }

    void* address; // none where there are no blocks
    std::uint64_t length;
    std::vector<Block> blocks;
    std::atomic<std::uint64_t> missing{0}; // bytes
};

Result<PageMap> PageMap::map(std::span<const RamBlockInfo> blocks, const Fd& file) {
    for (const RamBlockInfo& block : blocks) {
        if (block.page_size == 0 || block.length % block.page_size != 0) {
            return std::unexpected(make_error(ErrorCode::invalid_argument, "map", "page map",
                                              "RAM block " + block.name + " has no page size that divides its length"));
        }
    }
    const std::uint64_t length = page_map_bytes(blocks);
    struct stat status = {};
    if (::fstat(file.get(), &status) != 0) {
        return std::unexpected(errno_error(errno, "fstat", "page map"));
    }
    // Beyond the end of the file every touch would be SIGBUS.
    if (static_cast<std::uint64_t>(status.st_size) < length) {
        return std::unexpected(
            make_error(ErrorCode::invalid_argument, "map", "page map",
                       "its file has " + std::to_string(status.st_size) + " bytes, and needs " + std::to_string(length)));
    }
    void* address = nullptr;
    if (length != 0) {
        address = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
        if (address == MAP_FAILED) {
            return std::unexpected(errno_error(errno, "mmap", "page map"));
        }
    }
    auto mapping = std::make_unique<Mapping>(address, length);
    std::span<Bitmap::Word> words{static_cast<Bitmap::Word*>(address), length / sizeof(Bitmap::Word)};
    for (const RamBlockInfo& block : blocks) {
        const std::uint64_t pages = block.length / block.page_size;
        const std::size_t each = Bitmap::words_for(pages);
        mapping->blocks.push_back({.received = Bitmap{pages, words.first(each)},
                                   .wanted = Bitmap{pages, words.subspan(each, each)},
                                   .page_size = block.page_size});
        words = words.subspan(2 * each);
    }
    mapping->count();
    return PageMap{std::move(mapping)};
}

PageMap::PageMap(std::unique_ptr<Mapping> mapping) : mapping_(std::move(mapping)) {}
PageMap::PageMap(PageMap&&) noexcept = default;
PageMap& PageMap::operator=(PageMap&&) noexcept = default;
PageMap::~PageMap() = default;

std::size_t PageMap::blocks() const {
    return mapping_->blocks.size();
}

const Bitmap& PageMap::received(std::size_t block) const {
    return mapping_->blocks[block].received;
}

Bitmap& PageMap::wanted(std::size_t block) {
    return mapping_->blocks[block].wanted;
}

std::uint64_t PageMap::page_size(std::size_t block) const {
    return mapping_->blocks[block].page_size;
}

std::uint64_t PageMap::received_run(std::size_t block, PageRun run) {
    Mapping::Block& in = mapping_->blocks[block];
    const std::uint64_t fresh = in.received.set_run(run);
    // After the received bits: who marks a page wanted too late for this sees that it was received.
    in.wanted.clear_run(run);
    mapping_->missing.fetch_sub(fresh * in.page_size, std::memory_order_relaxed);
    return fresh;
}

std::uint64_t PageMap::received_in_word(std::size_t block, std::size_t word, std::uint64_t bits) {
    Mapping::Block& in = mapping_->blocks[block];
    const auto fresh = static_cast<std::uint64_t>(std::popcount(in.received.set_in_word(word, bits)));
    mapping_->missing.fetch_sub(fresh * in.page_size, std::memory_order_relaxed);
    return in.wanted.clear_in_word(word, bits); // after the received bits, as above
}

void PageMap::clear() {
    for (Mapping::Block& block : mapping_->blocks) {
        const PageRun all{.first = 0, .count = block.received.pages()};
        block.received.clear_run(all);
        block.wanted.clear_run(all);
    }
    mapping_->count();
}

std::uint64_t PageMap::missing_bytes() const {
    return mapping_->missing.load(std::memory_order_relaxed);
}

} // namespace pageferry::memory
