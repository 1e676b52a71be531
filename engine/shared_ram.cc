#include "engine/shared_ram.h"

namespace pageferry::engine {

std::vector<transport::MemoryBlock> shared_blocks(std::span<const memory::RamBlock> blocks, std::uint32_t access) {
    std::vector<transport::MemoryBlock> shared;
    shared.reserve(blocks.size());
    for (const auto& block : blocks) {
        const auto& info = block.info();
        shared.push_back(transport::MemoryBlock{.block = static_cast<std::uint32_t>(shared.size()),
                                                .name = info.name,
                                                .address = block.alias(),
                                                .length = info.length,
                                                .page_size = info.page_size,
                                                .access = access});
    }
    return shared;
}

transport::session::RamTable ram_table(std::span<const memory::RamBlock> blocks) {
    transport::session::RamTable table;
    for (const auto& block : blocks) {
        const auto& info = block.info();
        table.blocks.push_back(transport::session::RamTableEntry{.block = static_cast<std::uint32_t>(table.blocks.size()),
                                                                 .name = info.name,
                                                                 .length = info.length,
                                                                 .page_size = info.page_size});
    }
    return table;
}

} // namespace pageferry::engine
