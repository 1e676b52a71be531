// RLIMIT_MEMLOCK: whether this process may pin the memory that is to be registered.
//
// Threads: any.
#pragma once

#include "base/error.h"

#include <cstdint>

namespace pageferry::rdma {

// Raises the soft limit up to the hard one where that is enough. resources: what is needed, what is allowed, and how to raise it.
// A process with CAP_IPC_LOCK has no limit.
Result<void> check_memlock(std::uint64_t bytes);

// The limit as it is for this process, in bytes; ~0: none.
std::uint64_t memlock_limit();

} // namespace pageferry::rdma
