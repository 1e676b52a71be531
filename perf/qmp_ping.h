// `pageferry-perf qmp`: how long a command takes at each of several QMP monitors, asked in turn, one command at a time.
//
// Threads: the main thread.
#pragma once

#include "base/error.h"
#include "perf/stats.h"

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

namespace pageferry::perf {

struct QmpPingOptions {
    std::vector<std::string> sockets;                                            // paths
    std::string request = R"({"execute":"query-cpus-fast","id":"libvirt-100"})"; // as libvirt writes it
    unsigned runs = 2000;                                                        // at each of them
    unsigned warm_up = 200;
    std::chrono::microseconds pause{0}; // before each command; 0: as fast as the answers come
    std::chrono::milliseconds timeout{60'000};
};

struct QmpPing {
    std::string socket;
    Latency latency;
    std::size_t reply_bytes = 0; // of the last one
};

// One for each socket. An answer that is an error is an error here.
Result<std::vector<QmpPing>> run_qmp_ping(const QmpPingOptions& options);

} // namespace pageferry::perf
