// The options given to listen() or open(), checked and with their defaults.
//
// Pure; any thread.
#pragma once

#include "base/error.h"
#include "transport/abi/pageferry_transport.h"

#include <cstdint>

namespace pageferry::plugin {

inline constexpr std::uint32_t max_lanes = 64;

// given may be null. invalid_argument: something is out of range.
Result<pf_options> read_options(const pf_options* given);

} // namespace pageferry::plugin
