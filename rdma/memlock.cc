#include "rdma/memlock.h"

#include "base/memlock.h"

#include <sys/resource.h>

#include <string>

namespace pageferry::rdma {

namespace {

constexpr std::uint64_t kib = 1024;

std::string mebibytes(std::uint64_t bytes) {
    return std::to_string((bytes + (kib * kib) - 1) / (kib * kib)) + " MiB";
}

} // namespace

std::uint64_t memlock_limit() {
    const auto limit = read_memlock();
    return !limit || limit->exempt ? no_memlock_limit : limit->soft;
}

Result<void> check_memlock(std::uint64_t bytes) {
    const auto limit = read_memlock();
    if (!limit) {
        return std::unexpected{limit.error()};
    }
    const std::uint64_t needed = bytes + memlock_overhead + limit->used;
    if (limit->exempt || limit->soft >= needed) {
        return {};
    }
    if (limit->hard >= needed) {
        const rlim_t hard = limit->hard == no_memlock_limit ? RLIM_INFINITY : limit->hard;
        const rlimit raised{.rlim_cur = hard, .rlim_max = hard};
        if (::setrlimit(RLIMIT_MEMLOCK, &raised) == 0) {
            return {};
        }
    }
    const std::string kibibytes = std::to_string((needed + kib - 1) / kib);
    return std::unexpected{make_error(ErrorCode::resources, "register memory", "RLIMIT_MEMLOCK",
                                      "memlock too small: the guest's RAM must be pinned, which needs " + mebibytes(needed) +
                                          ", and the limit is " + mebibytes(limit->hard),
                                      "raise it for the process that starts QEMU: ulimit -l " + kibibytes + ", LimitMEMLOCK=" +
                                          std::to_string(needed) + " in its systemd unit, or <memtune><hard_limit> in libvirt")};
}

} // namespace pageferry::rdma
