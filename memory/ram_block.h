// One block of guest RAM: a shared named file, mapped by the hypervisor (the guest mapping) and by us (the alias).
//
// Threads: a RamBlock is made and unmade by one thread; its getters may be used by all.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstddef>
#include <cstdint>
#include <string>

namespace pageferry::memory {

// Where a block is; the file descriptor goes with it separately.
struct RamBlockInfo {
    std::string name;                // QEMU's RAM block id: "pc.ram"
    std::uint64_t length = 0;        // bytes
    std::uint64_t page_size = 0;     // bytes: of the file system (4096, or the huge page size)
    std::uint64_t file_offset = 0;   // bytes, where the block starts in the file
    std::uint64_t guest_address = 0; // address in the hypervisor's own address space
};

class RamBlock {
public:
    // Maps the file shared, read and write. Errors: mmap's; the file is no tmpfs/hugetlbfs/memfd; the file is too short; lengths not page-aligned.
    static Result<RamBlock> map(RamBlockInfo info, Fd file);
    RamBlock(RamBlock&& other) noexcept;
    RamBlock& operator=(RamBlock&& other) noexcept;
    ~RamBlock(); // unmaps the alias; the guest mapping is not touched

    [[nodiscard]] const RamBlockInfo& info() const { return info_; }
    [[nodiscard]] std::byte* alias() const { return alias_; }
    [[nodiscard]] int file() const { return file_.get(); }
    [[nodiscard]] std::uint64_t pages() const { return info_.length / info_.page_size; }

private:
    RamBlock(RamBlockInfo info, Fd file, std::byte* alias);
    RamBlockInfo info_;
    Fd file_;
    std::byte* alias_ = nullptr;
};

} // namespace pageferry::memory
