// The RAM blocks a connection may touch: looked up by number, every access checked against range and rights.
//
// Threads: immutable once made; any.
#pragma once

#include "base/error.h"
#include "transport/abi/pageferry_transport.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace pageferry::plugin {

struct Block {
    std::uint32_t number = 0;
    std::string name;
    std::byte* address = nullptr;
    std::uint64_t length = 0; // bytes
    std::uint32_t access = 0; // PF_MEMORY_*
};

class MemoryTable {
public:
    // invalid_argument: a number twice, no address, or a length that is zero or no multiple of the page size.
    static Result<MemoryTable> make(std::span<const pf_memory_block> blocks);

    // Where the stretch begins. invalid_argument: no such block, or not within it. permission: not with this right (one
    // PF_MEMORY_*).
    [[nodiscard]] Result<std::byte*> at(std::uint32_t block, std::uint64_t offset, std::uint64_t length,
                                        std::uint32_t right) const;
    // All of them, with at least one of the rights; operation is what the error says was tried.
    [[nodiscard]] Result<void> check(const char* operation, std::span<const pf_extent> extents, std::uint32_t rights) const;
    [[nodiscard]] std::span<const Block> blocks() const { return blocks_; }

private:
    std::vector<Block> blocks_; // by number
};

} // namespace pageferry::plugin
