// What the running kernel can do for faults (postcopy), tried on memory of our own, and who may open a userfaultfd.
//
// Any thread; each call makes and unmakes a few pages.
#pragma once

#include "base/error.h"

#include <optional>

namespace pageferry::memory {

struct FaultProbe {
    // Errors: `unsupported`, with the kernel version that has it; `resources` where there is no huge page to try it on and the
    // kernel says that it has it.
    Result<void> missing;
    Result<void> minor;
};

// Errors: no userfaultfd can be had at all, and why.
Result<FaultProbe> probe_faults_shmem();
Result<FaultProbe> probe_faults_hugetlbfs();

// A vCPU of KVM faults in the kernel, so postcopy needs a userfaultfd that serves those too; dirty tracking needs any.
enum class UserfaultfdWay { none, user_mode_only, device, system_call };
struct UserfaultfdAccess {
    UserfaultfdWay way = UserfaultfdWay::none; // the first of: device, system call, user mode only
    int error = 0;                             // errno of what was tried last, where way is none or user_mode_only
};
UserfaultfdAccess probe_userfaultfd();

} // namespace pageferry::memory
