// What the kernel of this host does for migrations, and what it allows this user: asked, and tried on memory of our own.
//
// Threads: any; no state. Takes milliseconds.
#pragma once

#include "base/error.h"
#include "base/memlock.h"
#include "memory/fault_probe.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pageferry::hypervisor {

struct KernelFeatures {
    std::string release; // "6.12.9-amd64"
    std::string machine; // "x86_64"
    // What a source asks for dirty pages. Either will do.
    Result<void> write_protect; // userfaultfd WP_ASYNC with PAGEMAP_SCAN
    Result<void> soft_dirty;
    // What a postcopy destination needs of the memory that the guest's RAM is. An error `resources`: the kernel has it, and there
    // was no huge page to try it on.
    Result<void> missing_shmem, minor_shmem;
    Result<void> missing_huge, minor_huge;
};
KernelFeatures kernel_features();

struct UserfaultfdRights {
    memory::UserfaultfdAccess own;            // what this user gets
    std::optional<bool> unprivileged;         // vm.unprivileged_userfaultfd; empty where the kernel has none
    std::optional<std::string> device_rights; // of /dev/userfaultfd: "root:kvm 0660"; empty where there is none
};
UserfaultfdRights userfaultfd_rights();

struct HugePages {
    std::uint64_t page_size = 0; // bytes
    std::uint64_t total = 0;     // pages
    std::uint64_t free = 0;      // pages that are not promised to anybody
};
// One for each size that the kernel has; root is where sysfs is.
std::vector<HugePages> huge_pages(const std::string& root = "/sys");

} // namespace pageferry::hypervisor
