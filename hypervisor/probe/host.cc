#include "hypervisor/probe/host.h"

#include "base/fd.h"
#include "memory/kernel_probe.h"

#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <system_error>

namespace pageferry::hypervisor {

namespace {

namespace fs = std::filesystem;

Result<void> write_protect() {
    const Fd pagemap{::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)};
    if (!pagemap) {
        return std::unexpected(errno_error(errno, "open", "/proc/self/pagemap"));
    }
    const auto probed = memory::probe_write_protect(pagemap.get());
    return probed ? Result<void>{} : std::unexpected(probed.error());
}

std::string owner_name(uid_t user) {
    std::array<char, 4096> buffer{};
    passwd entry{};
    passwd* found = nullptr;
    ::getpwuid_r(user, &entry, buffer.data(), buffer.size(), &found);
    return found != nullptr ? std::string{found->pw_name} : std::to_string(user);
}

std::string group_name(gid_t group_id) {
    std::array<char, 4096> buffer{};
    group entry{};
    group* found = nullptr;
    ::getgrgid_r(group_id, &entry, buffer.data(), buffer.size(), &found);
    return found != nullptr ? std::string{found->gr_name} : std::to_string(group_id);
}

std::optional<std::string> rights_of(const char* path) {
    struct stat about{};
    if (::stat(path, &about) != 0) {
        return std::nullopt;
    }
    std::array<char, 16> mode{};
    std::snprintf(mode.data(), mode.size(), "%04o", static_cast<unsigned>(about.st_mode & 07777U));
    return owner_name(about.st_uid) + ":" + group_name(about.st_gid) + " " + mode.data();
}

std::uint64_t number_in(const fs::path& file) {
    std::uint64_t number = 0;
    std::ifstream{file} >> number;
    return number;
}

} // namespace

KernelFeatures kernel_features() {
    utsname names{};
    ::uname(&names);
    const auto shmem = memory::probe_faults_shmem();
    const auto huge = memory::probe_faults_hugetlbfs();
    const auto failed = [](const Result<memory::FaultProbe>& probe) { return Result<void>{std::unexpected(probe.error())}; };
    return KernelFeatures{.release = names.release,
                          .machine = names.machine,
                          .write_protect = write_protect(),
                          .soft_dirty = memory::probe_soft_dirty(),
                          .missing_shmem = shmem ? shmem->missing : failed(shmem),
                          .minor_shmem = shmem ? shmem->minor : failed(shmem),
                          .missing_huge = huge ? huge->missing : failed(huge),
                          .minor_huge = huge ? huge->minor : failed(huge)};
}

UserfaultfdRights userfaultfd_rights() {
    UserfaultfdRights rights{
        .own = memory::probe_userfaultfd(), .unprivileged = {}, .device_rights = rights_of("/dev/userfaultfd")};
    int value = 0;
    if (std::ifstream{"/proc/sys/vm/unprivileged_userfaultfd"} >> value) {
        rights.unprivileged = value != 0;
    }
    return rights;
}

std::vector<HugePages> huge_pages(const std::string& root) {
    const std::string begin = "hugepages-";
    std::vector<HugePages> pools;
    std::error_code failed;
    for (fs::directory_iterator entry{fs::path{root} / "kernel/mm/hugepages", failed};
         !failed && entry != fs::directory_iterator{}; entry.increment(failed)) {
        const std::string name = entry->path().filename();
        if (!name.starts_with(begin)) {
            continue;
        }
        const std::uint64_t unused = number_in(entry->path() / "free_hugepages");
        pools.push_back(HugePages{.page_size = std::strtoull(name.c_str() + begin.size(), nullptr, 10) * 1024,
                                  .total = number_in(entry->path() / "nr_hugepages"),
                                  .free = unused - std::min(unused, number_in(entry->path() / "resv_hugepages"))});
    }
    std::ranges::sort(pools, {}, &HugePages::page_size);
    return pools;
}

} // namespace pageferry::hypervisor
