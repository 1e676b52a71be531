#include "memory/fault_probe.h"

#include "base/fd.h"
#include "memory/kernel_abi.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00) // Linux 6.1
#endif

namespace pageferry::memory {

namespace {

constexpr std::uint64_t huge_page = std::uint64_t{2} << 20; // bytes; asked for by its size, whatever the default is
constexpr unsigned memfd_huge_2mb = 21U << 26U;             // MFD_HUGE_2MB, missing in some headers
constexpr int populate_write = 23; // MADV_POPULATE_WRITE, Linux 5.14: an error where touching would be SIGBUS

Error unsupported(std::string reason) {
    return make_error(ErrorCode::unsupported, "probe", "kernel", std::move(reason));
}

Fd open_any() {
    return Fd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY))};
}

class Mapping {
public:
    Mapping(int file, std::uint64_t length)
        : length_(length), address_(::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)) {}
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping() {
        if (ok()) {
            ::munmap(address_, length_);
        }
    }
    [[nodiscard]] bool ok() const { return address_ != MAP_FAILED; }
    [[nodiscard]] std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(address_); }
    [[nodiscard]] bool populate() const { return ::madvise(address_, length_, populate_write) == 0; }

private:
    std::uint64_t length_;
    void* address_;
};

Error not_tried() {
    return make_error(ErrorCode::resources, "map", "memory to try it on", "the kernel has it, but no page is free to try it on");
}

// As a postcopy does it: registered for both, filled through the alias, and mapped.
Result<void> try_continue(int userfaultfd, unsigned memfd_flags, std::uint64_t page, std::uint64_t mode) {
    const Fd file{::memfd_create("pageferry-probe", MFD_CLOEXEC | memfd_flags)};
    if (!file || ::ftruncate(file.get(), static_cast<off_t>(page)) != 0) {
        return std::unexpected(errno_error(errno, "make", "memory to try it on"));
    }
    const Mapping guest{file.get(), page};
    const Mapping alias{file.get(), page};
    if (!guest.ok() || !alias.ok()) {
        return std::unexpected(not_tried());
    }
    uffdio_register range = {.range = {.start = guest.address(), .len = page}, .mode = mode, .ioctls = 0};
    if (::ioctl(userfaultfd, UFFDIO_REGISTER, &range) != 0) {
        return std::unexpected(errno_error(errno, "UFFDIO_REGISTER", "memory of our own"));
    }
    if ((mode & UFFDIO_REGISTER_MODE_MINOR) != 0) {
        if (!alias.populate()) {
            return std::unexpected(not_tried());
        }
        uffdio_continue map = {.range = range.range, .mode = 0, .mapped = 0};
        if (::ioctl(userfaultfd, UFFDIO_CONTINUE, &map) != 0) {
            return std::unexpected(errno_error(errno, "UFFDIO_CONTINUE", "memory of our own"));
        }
    }
    return {};
}

struct Kind {
    std::uint64_t missing, minor; // features
    const char* missing_since;
    const char* minor_since;
    unsigned memfd_flags;
    std::uint64_t page;
};

Result<void> probe_one(int userfaultfd, std::uint64_t features, std::uint64_t feature, const char* since, const Kind& kind,
                       std::uint64_t mode) {
    if ((features & feature) == 0) {
        return std::unexpected(unsupported(since));
    }
    return try_continue(userfaultfd, kind.memfd_flags, kind.page, mode);
}

Result<FaultProbe> probe(const Kind& kind) {
    // Asking for what a kernel does not know is EINVAL, and a userfaultfd is asked once: one asks, another is used.
    const Fd asking = open_any();
    if (!asking) {
        return std::unexpected(errno_error(errno, "userfaultfd", "this process"));
    }
    uffdio_api api = {.api = UFFD_API, .features = 0, .ioctls = 0};
    if (::ioctl(asking.get(), UFFDIO_API, &api) != 0) {
        return std::unexpected(errno_error(errno, "UFFDIO_API", "userfaultfd"));
    }
    const std::uint64_t there = api.features;
    const Fd used = open_any();
    api = {.api = UFFD_API, .features = there & (kind.missing | kind.minor), .ioctls = 0};
    if (!used || ::ioctl(used.get(), UFFDIO_API, &api) != 0) {
        return std::unexpected(errno_error(errno, "UFFDIO_API", "userfaultfd"));
    }
    return FaultProbe{.missing =
                          probe_one(used.get(), there, kind.missing, kind.missing_since, kind, UFFDIO_REGISTER_MODE_MISSING),
                      .minor = probe_one(used.get(), there, kind.minor, kind.minor_since, kind,
                                         UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR)};
}

} // namespace

Result<FaultProbe> probe_faults_shmem() {
    return probe(Kind{.missing = UFFD_FEATURE_MISSING_SHMEM,
                      .minor = UFFD_FEATURE_MINOR_SHMEM,
                      .missing_since = "the kernel has no missing faults for shared memory (Linux 4.11)",
                      .minor_since = "the kernel has no minor faults for shared memory (Linux 5.14)",
                      .memfd_flags = 0,
                      .page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE))});
}

Result<FaultProbe> probe_faults_hugetlbfs() {
    return probe(Kind{.missing = UFFD_FEATURE_MISSING_HUGETLBFS,
                      .minor = UFFD_FEATURE_MINOR_HUGETLBFS,
                      .missing_since = "the kernel has no missing faults for huge pages (Linux 4.11)",
                      .minor_since = "the kernel has no minor faults for huge pages (Linux 5.13)",
                      .memfd_flags = MFD_HUGETLB | memfd_huge_2mb,
                      .page = huge_page});
}

UserfaultfdAccess probe_userfaultfd() {
    constexpr int flags = O_CLOEXEC | O_NONBLOCK;
    if (const Fd device{::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)}; device) {
        if (const Fd made{::ioctl(device.get(), USERFAULTFD_IOC_NEW, flags)}; made) {
            return {.way = UserfaultfdWay::device};
        }
    }
    if (const Fd made{static_cast<int>(::syscall(SYS_userfaultfd, flags))}; made) {
        return {.way = UserfaultfdWay::system_call};
    }
    const int error = errno;
    const Fd made = open_any();
    return {.way = made ? UserfaultfdWay::user_mode_only : UserfaultfdWay::none, .error = made ? error : errno};
}

} // namespace pageferry::memory
