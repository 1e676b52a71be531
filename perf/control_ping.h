// `pageferry-perf control`: how long a message on the control lane takes there and back.
//
// The asking side sends a message and waits for the same one to come back, again and again; the serving side sends back what
// comes. A message of one byte is the last. Threads: the main thread; the transport has its own.
#pragma once

#include "base/error.h"
#include "perf/stats.h"

#include <chrono>
#include <cstddef>
#include <string>

namespace pageferry::perf {

struct ControlOptions {
    std::string uri;
    std::size_t size = 64; // bytes of a message, 2..PF_CONTROL_MAX
    unsigned runs = 1000;  // round trips that count
    unsigned warm_up = 100;
    std::chrono::milliseconds timeout{60'000};
};

struct ControlReport {
    std::string connection; // the transport's own description
    Spread round_trip;      // seconds
};

// Serves one asking side and ends when it is done. Says "listening URI" on standard output once it listens.
Result<void> serve_control(const ControlOptions& options);
Result<ControlReport> run_control(const ControlOptions& options);

} // namespace pageferry::perf
