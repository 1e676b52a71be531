// What `pageferry probe URI` has found out about a connection, as far as it came.
//
// Plain values.
#pragma once

#include "base/error.h"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pageferry::cli {

struct ProbePhase {
    std::string name;   // "resolving address", "hello"
    std::string detail; // "192.0.2.7:4444"; may be empty
    std::chrono::microseconds took{0};
};

struct RoundTrips {
    unsigned count = 0;
    std::chrono::microseconds least{0};
    std::chrono::microseconds median{0};
    std::chrono::microseconds most{0};
};

struct PushFigures {
    std::uint64_t bytes = 0;
    std::chrono::microseconds first{0}; // with all that is done once, such as registering memory; until the fence
    std::chrono::microseconds again{0};
};

struct ProbeReport {
    enum class Peer { unknown, listener, destination };

    std::string uri;
    std::string plugin;    // file
    std::string transport; // name
    std::vector<ProbePhase> phases;
    std::string connection; // as the transport describes it; empty until it is up
    unsigned lanes = 0;
    Peer peer = Peer::unknown;
    std::string software; // of the peer
    std::optional<RoundTrips> round_trips;
    std::optional<PushFigures> push;
    std::string failed_in;      // phase
    std::optional<Error> error; // of that phase

    [[nodiscard]] bool ok() const { return !error; }
};

} // namespace pageferry::cli
