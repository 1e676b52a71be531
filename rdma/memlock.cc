#include "rdma/memlock.h"

#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <string>

namespace pageferry::rdma {

namespace {

constexpr std::uint64_t kib = 1024;
constexpr std::uint64_t overhead = std::uint64_t{16} << 20; // queues and control buffers

bool may_lock_without_limit() {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
    return ::syscall(SYS_capget, &header, data.data()) == 0 && (data[0].effective & (1U << CAP_IPC_LOCK)) != 0;
}

// What is pinned already: it counts against the same limit.
std::uint64_t pinned_now() {
    std::ifstream status{"/proc/self/status"};
    std::uint64_t total = 0;
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with("VmPin:") || line.starts_with("VmLck:")) {
            total += std::strtoull(line.c_str() + sizeof "VmPin:" - 1, nullptr, 10) * kib;
        }
    }
    return total;
}

std::string mebibytes(std::uint64_t bytes) {
    return std::to_string((bytes + (kib * kib) - 1) / (kib * kib)) + " MiB";
}

} // namespace

std::uint64_t memlock_limit() {
    rlimit limit{};
    if (may_lock_without_limit() || ::getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
        return ~std::uint64_t{0};
    }
    return limit.rlim_cur;
}

Result<void> check_memlock(std::uint64_t bytes) {
    if (may_lock_without_limit()) {
        return {};
    }
    rlimit limit{};
    if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) {
        return std::unexpected{errno_error(errno, "getrlimit", "RLIMIT_MEMLOCK")};
    }
    const std::uint64_t needed = bytes + overhead + pinned_now();
    if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= needed) {
        return {};
    }
    if (limit.rlim_max == RLIM_INFINITY || limit.rlim_max >= needed) {
        limit.rlim_cur = limit.rlim_max;
        if (::setrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
            return {};
        }
    }
    const std::string kibibytes = std::to_string((needed + kib - 1) / kib);
    return std::unexpected{make_error(ErrorCode::resources, "register memory", "RLIMIT_MEMLOCK",
                                      "memlock too small: the guest's RAM must be pinned, which needs " + mebibytes(needed) +
                                          ", and the limit is " + mebibytes(limit.rlim_max),
                                      "raise it for the process that starts QEMU: ulimit -l " + kibibytes + ", LimitMEMLOCK=" +
                                          std::to_string(needed) + " in its systemd unit, or <memtune><hard_limit> in libvirt")};
}

} // namespace pageferry::rdma
