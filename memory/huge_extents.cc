#include "memory/huge_extents.h"

#include "memory/kernel_abi.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace pageferry::memory {

namespace {

// A second mapping of the block, for look-ups only, with a userfaultfd of its own.
class Lookup {
public:
    explicit Lookup(const RamBlock& block) : length_(block.info().length), page_size_(block.info().page_size) {
        // Without a reservation: nothing will be filled through this mapping.
        void* const address = ::mmap(nullptr, length_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, block.file(),
                                     static_cast<off_t>(block.info().file_offset));
        if (address == MAP_FAILED) {
            return;
        }
        mapping_ = address;
        address_ = reinterpret_cast<std::uint64_t>(address);
        uffd_ = Fd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY))};
        uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MINOR_HUGETLBFS, .ioctls = 0};
        uffdio_register range = {.range = {.start = address_, .len = length_}, .mode = UFFDIO_REGISTER_MODE_MINOR, .ioctls = 0};
        usable_ = uffd_ && ::ioctl(uffd_.get(), UFFDIO_API, &api) == 0 && ::ioctl(uffd_.get(), UFFDIO_REGISTER, &range) == 0;
    }
    Lookup(const Lookup&) = delete;
    Lookup& operator=(const Lookup&) = delete;
    ~Lookup() {
        if (mapping_ != nullptr) {
            ::munmap(mapping_, length_);
        }
    }

    [[nodiscard]] bool usable() const { return usable_; }

    // False only when the page cache certainly has no page there.
    [[nodiscard]] bool has_data(std::uint64_t offset) const {
        uffdio_continue look = {
            .range = {.start = address_ + offset, .len = page_size_}, .mode = UFFDIO_CONTINUE_MODE_DONTWAKE, .mapped = 0};
        return ::ioctl(uffd_.get(), UFFDIO_CONTINUE, &look) == 0 || errno != EFAULT;
    }

private:
    std::uint64_t length_;
    std::uint64_t page_size_;
    void* mapping_ = nullptr;
    std::uint64_t address_ = 0; // of the mapping, as the kernel takes it
    Fd uffd_;
    bool usable_ = false;
};

} // namespace

std::vector<Extent> huge_data_extents(const RamBlock& block) {
    const RamBlockInfo& info = block.info();
    const Lookup lookup{block};
    if (!lookup.usable()) {
        return {{.offset = 0, .length = info.length}};
    }
    std::vector<Extent> extents;
    for (std::uint64_t offset = 0; offset < info.length; offset += info.page_size) {
        if (!lookup.has_data(offset)) {
            continue;
        }
        if (!extents.empty() && extents.back().offset + extents.back().length == offset) {
            extents.back().length += info.page_size;
        } else {
            extents.push_back({.offset = offset, .length = info.page_size});
        }
    }
    return extents;
}

} // namespace pageferry::memory
