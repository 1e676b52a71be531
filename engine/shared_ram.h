// A source's RAM blocks as the transport and the peer are told of them: numbered in their order.
//
// Pure; any thread.
#pragma once

#include "memory/ram_block.h"
#include "transport/connection.h"
#include "transport/session/messages.h"

#include <cstdint>
#include <span>
#include <vector>

namespace pageferry::engine {

// access: PF_MEMORY_*, the same for all.
std::vector<transport::MemoryBlock> shared_blocks(std::span<const memory::RamBlock> blocks, std::uint32_t access);
transport::session::RamTable ram_table(std::span<const memory::RamBlock> blocks);

} // namespace pageferry::engine
