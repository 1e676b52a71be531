// RLIMIT_MEMLOCK: how much memory this process may pin. RDMA pins all of a guest's RAM.
//
// Threads: any.
#pragma once

#include "base/error.h"

#include <cstdint>

namespace pageferry {

inline constexpr std::uint64_t no_memlock_limit = ~std::uint64_t{0};
// What an RDMA connection pins besides guest RAM: queues and control buffers, generously.
inline constexpr std::uint64_t memlock_overhead = std::uint64_t{16} << 20;

struct Memlock {
    std::uint64_t soft = 0; // bytes; no_memlock_limit: none
    std::uint64_t hard = 0; // bytes; the soft limit can be raised to it without any right
    bool exempt = false;    // CAP_IPC_LOCK: neither counts
    std::uint64_t used = 0; // bytes that this process has pinned or locked: they count

    // Bytes that can still be pinned, with the soft limit raised to the hard one.
    [[nodiscard]] std::uint64_t allowed() const;
};

// Errors: getrlimit's.
Result<Memlock> read_memlock();

} // namespace pageferry
