// A guest whose page faults are told: RAM mapped once more as a hypervisor does, under userfaultfd, with nothing of it mapped
// yet.
//
// Threads: touch() by one that is nobody else's; the rest as memory/fault_regions.h says.
#pragma once

#include "base/error.h"
#include "memory/fault_regions.h"
#include "memory/ram_block.h"
#include "perf/shared_ram.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace pageferry::perf {

class FaultGuest {
public:
    // ram outlives it. unsupported: this kernel has no such faults; permission: not for us.
    static Result<std::unique_ptr<FaultGuest>> make(const SharedRam& ram);
    ~FaultGuest();
    FaultGuest(const FaultGuest&) = delete;
    FaultGuest& operator=(const FaultGuest&) = delete;

    // Reads the first word of that page, as the guest would: waits until it is mapped.
    [[nodiscard]] std::uint64_t touch(std::uint64_t page) const;
    Result<void> zap(); // no page is mapped any more
    [[nodiscard]] memory::FaultRegions& regions() { return *regions_; }

private:
    FaultGuest() = default;
    std::uint64_t length_ = 0;
    std::byte* mapping_ = nullptr;
    std::vector<memory::RamBlock> blocks_;
    std::unique_ptr<memory::FaultRegions> regions_;
};

} // namespace pageferry::perf
