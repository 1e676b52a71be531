// `pageferry-perf fault`: how long a guest's page fault takes in postcopy, and what it is made of.
//
//   read       an urgent pull of a page: one thread that asks and polls
//   urgent     the same as the engine does it: one thread asks, another one polls and tells it
//   local      a page fault alone: a thread touches a page that is in the file but not mapped, another one reads the fault from
//   the
//              userfaultfd and maps the page (UFFDIO_CONTINUE), and the first goes on
//   whole      both: touched, read from the userfaultfd, pulled, mapped, gone on
// and `urgent` and `whole` once more while bulk pulls are under way in the background. Pages are taken in an order without any
// pattern. The side that is pulled from is that of `push --listen`.
//
// Threads: the main thread, one that reads faults, one that polls; the transport has its own.
#pragma once

#include "base/error.h"
#include "perf/stats.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace pageferry::perf {

struct FaultOptions {
    std::string uri;
    std::uint64_t size = std::uint64_t{256} << 20; // bytes of RAM
    unsigned lanes = 2;
    unsigned runs = 2000;   // faults of each kind that count
    unsigned warm_up = 200; // and before them that do not
    std::chrono::milliseconds timeout{60'000};
    std::chrono::milliseconds dead_peer{10'000};
};

struct FaultReport {
    std::string connection;
    Latency read;
    Latency urgent;
    Latency urgent_busy; // with bulk pulls in the background
    Latency local;
    Latency whole;
    Latency whole_busy;
    double background = 0; // bytes a second that the bulk pulls reached in whole_busy
};

Result<FaultReport> run_fault(const FaultOptions& options);

} // namespace pageferry::perf
