// `pageferry-perf request-reply`: a request of 24 bytes and a reply of a page over a plain TCP connection, one thread at each end
// that does nothing else: what a pull over TCP cannot be quicker than.
//
// Threads: the main thread.
#pragma once

#include "base/error.h"
#include "perf/stats.h"

#include <chrono>
#include <string>

namespace pageferry::perf {

struct PlainTcpOptions {
    std::string uri; // tcp:ADDRESS:PORT, the address a number
    unsigned runs = 2000;
    unsigned warm_up = 200;
    std::chrono::milliseconds timeout{60'000};
};

// Serves one asking side, and ends when it has closed. Says "listening URI" on standard output once it listens.
Result<void> serve_plain_tcp(const PlainTcpOptions& options);
Result<Latency> run_plain_tcp(const PlainTcpOptions& options);

} // namespace pageferry::perf
