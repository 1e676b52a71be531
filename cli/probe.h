// `pageferry probe`: what this host can do, whether a connection comes up, and the other end of such a connection.
//
// Threads: the main thread.
#pragma once

#include "cli/exit_codes.h"

#include <chrono>
#include <cstdint>
#include <string>

namespace pageferry::cli {

struct ProbeOptions {
    std::string uri; // empty: this host
    bool json = false;
    bool listen = false;
    unsigned lanes = 2;
    std::chrono::milliseconds timeout{10'000}; // of setting up the connection, and of each answer
    unsigned count = 0;                        // probes to answer; 0: until Ctrl-C
};

// 0: told; with a URI, the connection works. 1: it does not. 2: the URI is wrong.
ExitCode run_probe(const ProbeOptions& options);

} // namespace pageferry::cli
