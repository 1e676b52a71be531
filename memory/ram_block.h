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
    std::uint64_t page_size = 0;     // bytes: of the file system (4096, or the huge page size); 0: as the file has it
    std::uint64_t file_offset = 0;   // bytes, where the block starts in the file
    std::uint64_t guest_address = 0; // address in the hypervisor's own address space; 0 where it is not known
};

// The page size a tmpfs, memfd or hugetlbfs file is made of. Errors: fstatfs's; `unsupported` for any other file system.
Result<std::uint64_t> file_page_size(int file);

class RamBlock {
public:
    // Maps the file shared, read and write; afterwards info().page_size is the file's. On hugetlbfs the huge pages are reserved
    // here, so that a pool that is too small is an error now and not a SIGBUS later. Errors: mmap's; the file is no
    // tmpfs/hugetlbfs/memfd; the file is too short; lengths not page-aligned; a page size that is not the file's.
    static Result<RamBlock> map(RamBlockInfo info, Fd file);
    RamBlock(RamBlock&& other) noexcept;
    RamBlock& operator=(RamBlock&& other) noexcept;
    ~RamBlock(); // unmaps the alias; the guest mapping is not touched

    [[nodiscard]] const RamBlockInfo& info() const { return info_; }
    [[nodiscard]] std::byte* alias() const { return alias_; }
    [[nodiscard]] int file() const { return file_.get(); }
    [[nodiscard]] std::uint64_t pages() const { return info_.length / info_.page_size; }
    [[nodiscard]] bool is_hugetlb() const { return hugetlb_; }

private:
    RamBlock(RamBlockInfo info, Fd file, std::byte* alias, bool hugetlb);
    RamBlockInfo info_;
    Fd file_;
    std::byte* alias_ = nullptr;
    bool hugetlb_ = false;
};

} // namespace pageferry::memory
