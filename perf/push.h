// `pageferry-perf push`: how fast a transport moves RAM, with nothing of the engine around it.
//
// The pushing side connects, says how much RAM there is, and pushes all of it again and again, each time up to the fence. The
// serving side only maps memory and reports its CPU time. What they say to each other are JSON objects on the control lane,
// described in push_protocol.h. Threads: the main thread; the transport has its own.
#pragma once

#include "base/error.h"
#include "perf/stats.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace pageferry::perf {

struct PushOptions {
    std::string uri;
    std::uint64_t size = std::uint64_t{1} << 30;   // bytes of RAM
    std::uint64_t extent = std::uint64_t{1} << 20; // bytes of one push
    unsigned lanes = 2;
    unsigned runs = 5;
    unsigned warm_up = 1;                        // runs that are not counted
    bool fresh = false;                          // the target allocates its memory anew in every run
    bool prepare = false;                        // tell the transport beforehand what will be pushed
    double idle = 0;                             // seconds to do nothing for, before the runs
    bool verify = true;                          // compare the target's memory after the last run
    std::chrono::milliseconds timeout{60'000};   // for connecting, and for any wait that sees no progress
    std::chrono::milliseconds dead_peer{10'000}; // the transport's: a peer that answers nothing for so long is gone
    // Told of a failure before the connection is closed, for the kernel may take long over that.
    std::function<void(const Error&)> failed;
};

struct PushRun {
    double seconds = 0; // first push to the end of the fence
    double source_cpu = 0;
    double target_cpu = 0;
};

// A step of the setup, and when it began: seconds after the call of connect().
struct PushStep {
    std::string name;
    double seconds = 0;
};

struct PushReport {
    std::string connection; // the transport's own description
    std::vector<PushStep> steps;
    double first_push = 0;       // seconds after the call of connect() that the first push was complete
    std::optional<PushRun> idle; // the CPU time of doing nothing
    std::vector<PushRun> runs;
    std::uint64_t wire_bytes = 0; // of all runs, warm-up too, as the transport counts
};

// Serves one pushing side and ends when it is done. Says "listening URI" on standard output once it listens.
Result<void> serve_push(const PushOptions& options);
Result<PushReport> run_push(const PushOptions& options);

} // namespace pageferry::perf
