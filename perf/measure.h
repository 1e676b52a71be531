// What a piece of work costs the two ends of a connection.
//
// Threads: the caller's.
#pragma once

#include "base/error.h"
#include "perf/push.h"
#include "transport/connection.h"

#include <chrono>
#include <functional>

namespace pageferry::perf {

// The time of work, and the CPU time that both processes spent meanwhile; the peer is one that serve_push() serves.
Result<PushRun> measure(transport::Connection& connection, std::chrono::milliseconds timeout,
                        const std::function<Result<void>()>& work);

} // namespace pageferry::perf
