#include "perf/fault_guest.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

namespace pageferry::perf {

namespace {

constexpr std::uint64_t page_bytes = 4096;

Result<Fd> make_userfaultfd() {
    for (const int flags : {O_CLOEXEC | O_NONBLOCK, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY}) {
        if (Fd made{static_cast<int>(::syscall(SYS_userfaultfd, flags))}; made) {
            return made;
        }
    }
    return std::unexpected(errno_error(errno, "userfaultfd", "this process", "run it as root"));
}

} // namespace

Result<std::unique_ptr<FaultGuest>> FaultGuest::make(const SharedRam& ram) {
    std::unique_ptr<FaultGuest> guest{new FaultGuest};
    guest->length_ = ram.length();
    void* const mapping = ::mmap(nullptr, ram.length(), PROT_READ | PROT_WRITE, MAP_SHARED, ram.file(), 0);
    if (mapping == MAP_FAILED) {
        return std::unexpected(errno_error(errno, "mmap", "the guest's RAM"));
    }
    guest->mapping_ = static_cast<std::byte*>(mapping);
    Fd file{::fcntl(ram.file(), F_DUPFD_CLOEXEC, 0)};
    if (!file) {
        return std::unexpected(errno_error(errno, "fcntl", "the guest's RAM"));
    }
    auto block = memory::RamBlock::map({.name = "perf",
                                        .length = ram.length(),
                                        .page_size = 0,
                                        .file_offset = 0,
                                        .guest_address = reinterpret_cast<std::uintptr_t>(mapping)},
                                       std::move(file));
    if (!block) {
        return std::unexpected(std::move(block.error()));
    }
    guest->blocks_.push_back(std::move(*block));
    auto userfaultfd = make_userfaultfd();
    if (!userfaultfd) {
        return std::unexpected(std::move(userfaultfd.error()));
    }
    std::vector<Fd> userfaultfds;
    userfaultfds.push_back(std::move(*userfaultfd));
    auto regions = memory::FaultRegions::make(std::move(userfaultfds), guest->blocks_);
    if (!regions) {
        return std::unexpected(std::move(regions.error()));
    }
    guest->regions_ = std::make_unique<memory::FaultRegions>(std::move(*regions));
    PAGEFERRY_TRY(guest->regions_->arm(0));
    PAGEFERRY_TRY(guest->zap());
    return guest;
}

FaultGuest::~FaultGuest() {
    if (regions_) {
        (void)regions_->disarm();
    }
    if (mapping_ != nullptr) {
        ::munmap(mapping_, length_);
    }
}

std::uint64_t FaultGuest::touch(std::uint64_t page) const {
    return std::atomic_ref{*reinterpret_cast<std::uint64_t*>(mapping_ + (page * page_bytes))}.load();
}

Result<void> FaultGuest::zap() {
    if (::madvise(mapping_, length_, MADV_DONTNEED) != 0) {
        return std::unexpected(errno_error(errno, "madvise", "the guest's RAM"));
    }
    return {};
}

} // namespace pageferry::perf
