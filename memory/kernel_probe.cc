#include "memory/kernel_probe.h"

#include "base/fd.h"
#include "memory/kernel_abi.h"
#include "memory/pagemap.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace pageferry::memory {

namespace {

Error unsupported(std::string reason) {
    return make_error(ErrorCode::unsupported, "probe", "kernel", std::move(reason));
}

// Memory of our own that goes when the probe does.
class Scratch {
public:
    Scratch(std::uint64_t length, int flags, int file)
        : length_(length), address_(::mmap(nullptr, length, PROT_READ | PROT_WRITE, flags, file, 0)) {}
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() {
        if (ok()) {
            ::munmap(address_, length_);
        }
    }
    [[nodiscard]] bool ok() const { return address_ != MAP_FAILED; }
    [[nodiscard]] std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(address_); }
    void write() const { *static_cast<volatile char*>(address_) = 1; }

private:
    std::uint64_t length_;
    void* address_;
};

// Whether a range that surely has no page table (it was never touched, and is larger than what one table covers) is reported.
bool sees_holes(int userfaultfd) {
    constexpr std::uint64_t table_covers = std::uint64_t{2} << 20;
    const Fd file{::memfd_create("pageferry-probe", MFD_CLOEXEC)};
    if (::ftruncate(file.get(), 4 * table_covers) != 0) {
        return false;
    }
    const Scratch memory{4 * table_covers, MAP_SHARED, file.get()};
    const Fd pagemap{::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)};
    uffdio_register range = {
        .range = {.start = memory.address(), .len = 4 * table_covers}, .mode = UFFDIO_REGISTER_MODE_WP, .ioctls = 0};
    if (!memory.ok() || !pagemap || ::ioctl(userfaultfd, UFFDIO_REGISTER, &range) != 0) {
        return false;
    }
    PagemapScanner scanner{pagemap.get()};
    std::uint64_t reported = 0;
    const std::uint64_t start = (memory.address() + table_covers - 1) / table_covers * table_covers;
    const auto scanned =
        scanner.each({.start = start, .end = start + 2 * table_covers}, written, [&](AddressRange found) -> Result<void> {
            reported += found.length();
            return {};
        });
    return scanned && reported == 2 * table_covers;
}

} // namespace

Result<WriteProtectProbe> probe_write_protect(int pagemap) {
    pm_scan_arg nothing = {};
    nothing.size = sizeof nothing;
    nothing.category_mask = PAGE_IS_WRITTEN;
    nothing.return_mask = PAGE_IS_WRITTEN;
    if (::ioctl(pagemap, PAGEMAP_SCAN, &nothing) < 0 && errno != ESRCH) { // ESRCH: the hypervisor is gone; start() will say so
        return std::unexpected(unsupported("the kernel has no PAGEMAP_SCAN (Linux 6.7)"));
    }
    const Fd userfaultfd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY))};
    if (!userfaultfd) {
        // This process may make none; the one that was handed over will show in start() what it can do.
        return WriteProtectProbe{};
    }
    uffdio_api api = {.api = UFFD_API, .features = write_protect_features, .ioctls = 0};
    if (::ioctl(userfaultfd.get(), UFFDIO_API, &api) != 0) {
        return std::unexpected(unsupported("the kernel has no asynchronous write-protection for shared memory (Linux 6.7)"));
    }
    return WriteProtectProbe{.holes_count_as_written = sees_holes(userfaultfd.get())};
}

Result<void> probe_soft_dirty() {
    const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    const Scratch memory{page, MAP_PRIVATE | MAP_ANONYMOUS, -1};
    const Fd pagemap{::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)};
    const Fd clear_refs{::open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC)};
    if (!memory.ok() || !pagemap || !clear_refs) {
        return std::unexpected(unsupported("the process's own pagemap and clear_refs cannot be opened"));
    }
    const auto is_dirty = [&] {
        std::uint64_t entry = 0;
        const auto where = static_cast<off_t>(memory.address() / page * sizeof entry);
        return ::pread(pagemap.get(), &entry, sizeof entry, where) == sizeof entry && (entry & pagemap_soft_dirty) != 0;
    };
    memory.write();
    if (::write(clear_refs.get(), "4", 1) != 1 || is_dirty()) {
        return std::unexpected(unsupported("soft-dirty bits cannot be cleared"));
    }
    memory.write();
    if (!is_dirty()) {
        return std::unexpected(unsupported("the kernel was built without CONFIG_MEM_SOFT_DIRTY"));
    }
    return {};
}

} // namespace pageferry::memory
