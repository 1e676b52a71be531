#include "memory/ram_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

namespace pageferry::memory {

namespace {

// "always [madvise] never": what stands in brackets holds.
bool transparent_huge_pages_allowed() {
    std::ifstream setting{"/sys/kernel/mm/transparent_hugepage/enabled"};
    std::string words;
    return std::getline(setting, words) && words.find("[never]") == std::string::npos;
}

bool resize(const Fd& file, std::uint64_t length) {
    return ::ftruncate(file.get(), static_cast<off_t>(length)) == 0;
}

} // namespace

Result<Fd> make_huge_ram_file(const std::string& name, std::uint64_t length) {
    const auto failed = [&name](const char* call) {
        return std::unexpected(errno_error(errno, call, "tmpfs for RAM file " + name));
    };
    const Fd system{::fsopen("tmpfs", FSOPEN_CLOEXEC)};
    if (!system) {
        return failed("fsopen");
    }
    // size 0: no limit of its own, as with a memfd. The default would be half of the host's memory.
    if (::fsconfig(system.get(), FSCONFIG_SET_STRING, "huge", "advise", 0) != 0 ||
        ::fsconfig(system.get(), FSCONFIG_SET_STRING, "size", "0", 0) != 0 ||
        ::fsconfig(system.get(), FSCONFIG_SET_STRING, "mode", "0700", 0) != 0 ||
        ::fsconfig(system.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
        return failed("fsconfig");
    }
    // Mounted nowhere: it has no path, and lives as long as the file is open.
    const Fd mount{::fsmount(system.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)};
    if (!mount) {
        return failed("fsmount");
    }
    Fd file{::openat(mount.get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
    if (!file || ::unlinkat(mount.get(), name.c_str(), 0) != 0 || !resize(file, length)) {
        return failed("open");
    }
    return file;
}

Result<Fd> make_ram_file(const std::string& name, std::uint64_t length) {
    if (transparent_huge_pages_allowed()) {
        if (auto huge = make_huge_ram_file(name, length)) {
            return huge;
        }
    }
    Fd file{::memfd_create(name.c_str(), MFD_CLOEXEC)};
    if (!file || !resize(file, length)) {
        return std::unexpected(errno_error(errno, "memfd_create", "RAM file " + name));
    }
    return file;
}

} // namespace pageferry::memory
