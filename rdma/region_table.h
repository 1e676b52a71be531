// The memory regions of the side that pushes and pulls: which stretches of RAM are registered here and at the peer, and by which
// keys.
//
// RAM is seen in granules of 2 MiB, the size of a huge page: what registering a page populates beside it the kernel would have
// given it anyway, and a hole of a granule or more stays a hole at both sides. A region is a run of granules, within a chunk of
// at most max_chunk bytes, that were asked for together; it is registered as a whole and stays to the connection's end, by the
// same key at the peer, while here it may be registered again (memory_replaced()).
//
// No input or output, no lock: the owner locks.
#pragma once

#include "rdma/kit.h"
#include "transport/plugin/memory_table.h"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

namespace pageferry::rdma {

// How much depends on it that a region is registered: nothing yet (it was named ahead), a push or a bulk pull, a page fault.
enum class Urgency : std::uint8_t { later, soon, now };

struct Region {
    std::uint32_t number = 0; // its place in the table
    std::uint32_t block = 0;
    std::uint64_t offset = 0; // bytes, within the block
    std::uint64_t length = 0;
    std::byte* address = nullptr; // here
    std::uint32_t access = 0;     // PF_MEMORY_* of the block here
    std::uint64_t remote_address = 0;
    std::uint32_t local_key = 0;
    std::uint32_t remote_key = 0;
    Urgency urgency = Urgency::later; // the most urgent that it was asked for with
    bool local_asked = false;         // being registered, or ready
    bool local_ready = false;
    bool remote_asked = false;
    bool remote_ready = false;

    [[nodiscard]] bool ready() const { return local_ready && remote_ready; }
    [[nodiscard]] std::uint64_t end() const { return offset + length; }
};

class RegionTable {
public:
    static constexpr std::uint64_t granule = std::uint64_t{2} << 20;
    static constexpr std::uint64_t max_chunk = std::uint64_t{64} << 20;
    // Of memory that is pulled into: a fault may have to wait until the chunk it is in is registered.
    static constexpr std::uint64_t max_pull_chunk = std::uint64_t{8} << 20;

    // largest: what the device can register at once (max_mr_size).
    RegionTable(std::span<const Block> blocks, std::uint64_t largest);

    // Regions for all that is not covered yet of these bytes; the numbers of the new ones are appended.
    void cover(std::uint32_t block, std::uint64_t offset, std::uint64_t length, std::vector<std::uint32_t>& added);
    // The region of this byte, or nullptr while nothing covers it.
    [[nodiscard]] Region* find(std::uint32_t block, std::uint64_t offset);
    // nullptr: there is no such number.
    [[nodiscard]] Region* at(std::uint32_t number) { return number < regions_.size() ? &regions_[number] : nullptr; }
    [[nodiscard]] std::size_t size() const { return regions_.size(); }

private:
    static constexpr std::uint32_t none = ~std::uint32_t{0};
    struct Granules {
        Block block;
        std::vector<std::uint32_t> region; // by granule
    };
    [[nodiscard]] Granules* granules_of(std::uint32_t block);

    std::uint64_t chunk_;
    std::vector<Granules> blocks_; // by number
    std::deque<Region> regions_;   // addresses stay
};

} // namespace pageferry::rdma
