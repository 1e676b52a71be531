// How long one side waits for an answer for which the other may have to ask its hypervisor, or to register memory. A dead peer is
// found much earlier, by its silence.
#pragma once

#include <chrono>

namespace pageferry::engine {

inline constexpr std::chrono::milliseconds answer_timeout{60'000};

} // namespace pageferry::engine
