// What the program was started with, and the transport it is about.
#pragma once

#include "transport/abi/pageferry_transport.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace pageferry::conformance {

struct Settings {
    std::string uri;                           // to listen on
    std::vector<std::filesystem::path> places; // --transport-path
    bool skip_unusable = false;                // where probe() says that this host cannot: skip, do not fail
};

Settings& settings();

// Loaded once, before the first test; the tests call it over the ABI alone.
const pf_transport& transport();

// Milliseconds that a call may take which should answer soon: far more than it needs, so that only a call that hangs is late.
inline constexpr std::int64_t patience = 60'000;

} // namespace pageferry::conformance
