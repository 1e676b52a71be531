#include "base/memlock.h"

#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <string>

namespace pageferry {

namespace {

bool may_lock_without_limit() {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
    return ::syscall(SYS_capget, &header, data.data()) == 0 && (data[0].effective & (1U << CAP_IPC_LOCK)) != 0;
}

std::uint64_t pinned_now() {
    std::ifstream status{"/proc/self/status"};
    std::uint64_t total = 0;
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with("VmPin:") || line.starts_with("VmLck:")) {
            total += std::strtoull(line.c_str() + sizeof "VmPin:" - 1, nullptr, 10) * 1024;
        }
    }
    return total;
}

std::uint64_t bytes(rlim_t limit) {
    return limit == RLIM_INFINITY ? no_memlock_limit : std::uint64_t{limit};
}

} // namespace

std::uint64_t Memlock::allowed() const {
    const std::uint64_t most = std::max(soft, hard);
    return exempt || most == no_memlock_limit ? no_memlock_limit : most - std::min(most, used);
}

Result<Memlock> read_memlock() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) {
        return std::unexpected{errno_error(errno, "getrlimit", "RLIMIT_MEMLOCK")};
    }
    return Memlock{
        .soft = bytes(limit.rlim_cur), .hard = bytes(limit.rlim_max), .exempt = may_lock_without_limit(), .used = pinned_now()};
}

} // namespace pageferry
