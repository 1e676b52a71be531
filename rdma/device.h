// A device as a connection sees it: its names and its limits.
//
// Threads: plain values.
#pragma once

#include "base/error.h"
#include "rdma/handles.h"
#include "rdma/kit.h"

#include <cstdint>
#include <string>

namespace pageferry::rdma {

struct DeviceLimits {
    std::uint64_t max_mr_size = 0; // bytes
    std::uint32_t max_qp_wr = 0;
    std::uint32_t max_cqe = 0;
    std::uint8_t max_rd_atomic = 0; // READs of one queue pair that may be under way, as the one who asks and who is asked
    std::uint8_t max_init_rd_atomic = 0;
};

Result<DeviceLimits> limits_of(ibv_context* context);

// "rxe0 port 1, GID fe80::...:1, MTU 1024": what an error names.
std::string describe_device(const rdma_cm_id& id);

// Whether there is a device at all, and one with an active port. not_found, unsupported, unreachable: why not, and what to do.
Result<void> any_device();

} // namespace pageferry::rdma
