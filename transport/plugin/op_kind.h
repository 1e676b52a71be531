// What can be asked of a connection's data lanes.
#pragma once

#include <cstdint>

namespace pageferry::plugin {

enum class OpKind : std::uint8_t { push = 0, pull = 1, pull_urgent = 2 };

} // namespace pageferry::plugin
