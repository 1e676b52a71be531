// `pageferry-perf pull`: how fast a transport pulls RAM, beside how fast it pushes as much, on one connection and in turn.
//
// As the engine does in postcopy: extents of 256 KiB, so many under way at once, one thread that starts them and polls. The side
// that is pulled from is that of `push --listen` (push_protocol.h, "pull").
//
// Threads: the main thread; the transport has its own.
#pragma once

#include "base/error.h"
#include "perf/push.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace pageferry::perf {

struct PullOptions {
    std::string uri;
    std::uint64_t size = std::uint64_t{1} << 30;     // bytes of RAM
    std::uint64_t extent = std::uint64_t{256} << 10; // bytes of one pull
    std::size_t in_flight = 16;                      // extents
    unsigned lanes = 2;
    unsigned runs = 5;
    unsigned warm_up = 1; // runs that are not counted; in the first of all what arrived is compared
    std::chrono::milliseconds timeout{60'000};
    std::chrono::milliseconds dead_peer{10'000};
};

struct PullReport {
    std::string connection;
    std::vector<PushRun> pulls;  // source_cpu is that of the side that pulls
    std::vector<PushRun> pushes; // the other way, as many bytes in the same extents
};

Result<PullReport> run_pull(const PullOptions& options);

} // namespace pageferry::perf
