#include "memory/ram_block.h"

#include "memory/kernel_abi.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cerrno>
#include <utility>

namespace pageferry::memory {

namespace {

Error invalid(const RamBlockInfo& info, std::string reason) {
    return make_error(ErrorCode::invalid_argument, "map", "RAM block " + info.name, std::move(reason));
}

Result<void> check(const RamBlockInfo& info, std::uint64_t page_size, std::uint64_t file_length) {
    const std::string unit = " is not a multiple of the page size " + std::to_string(page_size);
    if (info.page_size != 0 && info.page_size != page_size) {
        return std::unexpected(invalid(info, "its page size is said to be " + std::to_string(info.page_size) +
                                                 ", but its file has pages of " + std::to_string(page_size)));
    }
    if (info.length == 0 || info.length % page_size != 0) {
        return std::unexpected(invalid(info, "its length " + std::to_string(info.length) + unit));
    }
    if (info.file_offset % page_size != 0) {
        return std::unexpected(invalid(info, "its file offset " + std::to_string(info.file_offset) + unit));
    }
    if (info.guest_address % page_size != 0) {
        return std::unexpected(invalid(info, "its guest address " + std::to_string(info.guest_address) + unit));
    }
    if (info.file_offset > file_length || info.length > file_length - info.file_offset) {
        return std::unexpected(invalid(info, "its file has " + std::to_string(file_length) + " bytes, too short for " +
                                                 std::to_string(info.length) + " at offset " + std::to_string(info.file_offset)));
    }
    return {};
}

} // namespace

Result<std::uint64_t> file_page_size(int file) {
    struct statfs fs = {};
    if (::fstatfs(file, &fs) != 0) {
        return std::unexpected(errno_error(errno, "fstatfs", "RAM file"));
    }
    // f_type is signed on some architectures and HUGETLBFS_MAGIC has its top bit set: compare 32 bits.
    const auto type = static_cast<std::uint32_t>(fs.f_type);
    if (type != TMPFS_MAGIC && type != HUGETLBFS_MAGIC) {
        return std::unexpected(make_error(ErrorCode::unsupported, "map", "RAM file", "it is neither on tmpfs nor on hugetlbfs",
                                          "put the memory backend's mem-path under /dev/shm or a hugetlbfs mount"));
    }
    return static_cast<std::uint64_t>(fs.f_bsize);
}

Result<RamBlock> RamBlock::map(RamBlockInfo info, Fd file) {
    const auto page_size = file_page_size(file.get());
    if (!page_size) {
        Error error = page_size.error();
        error.object = "RAM block " + info.name;
        return std::unexpected(std::move(error));
    }
    struct stat status = {};
    if (::fstat(file.get(), &status) != 0) {
        return std::unexpected(errno_error(errno, "fstat", "RAM block " + info.name));
    }
    if (auto checked = check(info, *page_size, static_cast<std::uint64_t>(status.st_size)); !checked) {
        return std::unexpected(std::move(checked).error());
    }
    info.page_size = *page_size;
    void* const address =
        ::mmap(nullptr, info.length, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), static_cast<off_t>(info.file_offset));
    const bool hugetlb = *page_size != static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    if (address == MAP_FAILED) {
        const int number = errno;
        std::string remedy = number == ENOMEM && hugetlb ? "reserve more huge pages (vm.nr_hugepages)" : "";
        return std::unexpected(errno_error(number, "mmap", "RAM block " + info.name, std::move(remedy)));
    }
    if (!hugetlb) {
        // As QEMU does with its own mapping. EINVAL where the kernel has no transparent huge pages: then there are none.
        ::madvise(address, info.length, MADV_HUGEPAGE);
    }
    return RamBlock{std::move(info), std::move(file), static_cast<std::byte*>(address), hugetlb};
}

RamBlock::RamBlock(RamBlockInfo info, Fd file, std::byte* alias, bool hugetlb)
    : info_(std::move(info)), file_(std::move(file)), alias_(alias), hugetlb_(hugetlb) {}

RamBlock::RamBlock(RamBlock&& other) noexcept
    : info_(std::move(other.info_)), file_(std::move(other.file_)), alias_(std::exchange(other.alias_, nullptr)),
      hugetlb_(other.hugetlb_) {}

RamBlock& RamBlock::operator=(RamBlock&& other) noexcept {
    if (this != &other) {
        if (alias_ != nullptr) {
            ::munmap(alias_, info_.length);
        }
        info_ = std::move(other.info_);
        file_ = std::move(other.file_);
        alias_ = std::exchange(other.alias_, nullptr);
        hugetlb_ = other.hugetlb_;
    }
    return *this;
}

RamBlock::~RamBlock() {
    if (alias_ != nullptr) {
        ::munmap(alias_, info_.length);
    }
}

} // namespace pageferry::memory
