#include "hypervisor/mover/privileges.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>

namespace pageferry::hypervisor {

Result<void> drop_privileges() {
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return std::unexpected(errno_error(errno, "prctl(PR_SET_NO_NEW_PRIVS)", "mover"));
    }
    if (::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) {
        return std::unexpected(errno_error(errno, "prctl(PR_SET_PDEATHSIG)", "mover"));
    }
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
    if (::syscall(SYS_capget, &header, data.data()) != 0) {
        return std::unexpected(errno_error(errno, "capget", "mover"));
    }
    constexpr __u32 kept = (1U << CAP_IPC_LOCK) | (1U << CAP_NET_BIND_SERVICE);
    static_assert(CAP_IPC_LOCK < 32 && CAP_NET_BIND_SERVICE < 32);
    for (std::size_t word = 0; word < data.size(); ++word) {
        const __u32 mask = word == 0 ? kept : 0;
        data[word].effective &= mask;
        data[word].permitted &= mask;
        data[word].inheritable = 0;
    }
    if (::syscall(SYS_capset, &header, data.data()) != 0) {
        return std::unexpected(errno_error(errno, "capset", "mover"));
    }
    return {};
}

} // namespace pageferry::hypervisor
