#include "hypervisor/qemu/linux_host.h"

#include "hypervisor/qemu/text.h"

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace pageferry::hypervisor {

namespace {

namespace fs = std::filesystem;

constexpr decltype(statfs::f_type) hugetlbfs_type = 0x958458f6; // HUGETLBFS_MAGIC, missing in some kernel headers

std::uint64_t number_in(const fs::path& file) {
    std::uint64_t number = 0;
    std::ifstream{file} >> number;
    return number;
}

// The folder where the file system of this (existing, absolute) path begins.
std::string mount_point_of(fs::path path, dev_t device) {
    while (path.has_relative_path()) {
        struct stat parent{};
        if (::stat(path.parent_path().c_str(), &parent) != 0 || parent.st_dev != device) {
            break;
        }
        path = path.parent_path();
    }
    return path;
}

void add_huge_pool(PathStatus& at) {
    const fs::path pool = join("/sys/kernel/mm/hugepages/hugepages-", at.page_size / 1024, "kB");
    const std::uint64_t overcommit = number_in(pool / "nr_overcommit_hugepages");
    const std::uint64_t surplus = number_in(pool / "surplus_hugepages");
    const std::uint64_t total = number_in(pool / "nr_hugepages") + overcommit - std::min(overcommit, surplus);
    const std::uint64_t unused = number_in(pool / "free_hugepages") + overcommit - std::min(overcommit, surplus);
    const std::uint64_t reserved = number_in(pool / "resv_hugepages"); // promised to others
    at.total_bytes = std::min(at.total_bytes.value_or(UINT64_MAX), total * at.page_size);
    at.free_bytes = std::min(at.free_bytes.value_or(UINT64_MAX), (unused - std::min(unused, reserved)) * at.page_size);
}

} // namespace

Result<PathStatus> LinuxHost::status(const std::string& path) const {
    PathStatus at;
    std::error_code error;
    fs::path place = fs::absolute(path, error);
    struct stat about{};
    at.exists = ::stat(place.c_str(), &about) == 0;
    if (!at.exists && errno == ENOENT) {
        place = place.parent_path();
        if (::stat(place.c_str(), &about) != 0) {
            return std::unexpected(errno_error(errno, "stat", place, "create the directory first"));
        }
    } else if (!at.exists) {
        return std::unexpected(errno_error(errno, "stat", path));
    }
    struct statfs system{};
    if (::statfs(place.c_str(), &system) != 0) {
        return std::unexpected(errno_error(errno, "statfs", place));
    }
    at.directory = at.exists && S_ISDIR(about.st_mode);
    at.allocated = at.exists && S_ISREG(about.st_mode) ? static_cast<std::uint64_t>(about.st_blocks) * 512 : 0;
    at.device = about.st_dev;
    at.inode = about.st_ino;
    const fs::path real = fs::weakly_canonical(place, error);
    at.mount_point = mount_point_of(error ? place : real, about.st_dev);
    const auto block = static_cast<std::uint64_t>(system.f_bsize);
    if (system.f_blocks != 0 && system.f_blocks != static_cast<decltype(system.f_blocks)>(-1)) {
        at.total_bytes = system.f_blocks * block;
        at.free_bytes = system.f_bavail * block;
    }
    if (system.f_type == TMPFS_MAGIC) {
        at.file_system = PathStatus::FileSystem::tmpfs;
    } else if (system.f_type == hugetlbfs_type) {
        at.file_system = PathStatus::FileSystem::hugetlbfs;
        at.page_size = block;
        add_huge_pool(at);
    }
    return at;
}

Result<std::string> LinuxHost::read_text(const std::string& path) const {
    std::ifstream file{path, std::ios::binary};
    if (!file) {
        return std::unexpected(errno_error(errno, "open", path));
    }
    return std::string{std::istreambuf_iterator<char>{file}, {}};
}

bool LinuxHost::switched_off() const {
    const char* value = std::getenv("PAGEFERRY");
    return value != nullptr && std::string_view{value} == "off";
}

} // namespace pageferry::hypervisor
