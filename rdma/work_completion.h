// A work completion's status, in words: which lane, which queue pair, the status, the vendor's code.
//
// Pure functions; any thread.
#pragma once

#include "rdma/kit.h"
#include "transport/plugin/fault.h"

#include <infiniband/verbs.h>

#include <cstdint>
#include <string>

namespace pageferry::rdma {

struct LaneName {
    std::string title; // "bulk lane 0"
    std::uint32_t number = 0;
    std::string device; // "rxe0 port 1, GID ::ffff:10.77.0.1"
    std::string peer;
};

// status is not IBV_WC_SUCCESS.
Fault fault_of(const ibv_wc& completion, const LaneName& lane);

// "IBV_WC_RETRY_EXC_ERR": what the verbs manual calls it.
const char* name_of(ibv_wc_status status);

// A flushed request only says that its queue pair went into error for another reason, which is worth waiting for.
inline bool is_consequence(ibv_wc_status status) {
    return status == IBV_WC_WR_FLUSH_ERR;
}

} // namespace pageferry::rdma
