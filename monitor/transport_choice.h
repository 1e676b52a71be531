// Which transports are tried for the URIs a user gives, and in which order: the fallback from RDMA to TCP, as a policy.
//
// Pure; any thread.
#pragma once

#include "base/error.h"

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::monitor {

// The parameter x-pageferry-rdma.
enum class RdmaPolicy {
    required,  // RDMA or nothing
    preferred, // RDMA, and where it cannot be used, what follows in the list
    off,       // never RDMA
};
inline constexpr std::array<std::string_view, 3> rdma_policies{"required", "preferred", "off"}; // in the order of the enum

// The parameter x-pageferry-carrier: who carries migrations by tcp:, unix: and rdma:.
enum class CarrierPolicy {
    pageferry,
    qemu, // QEMU's own migration, for a peer without Pageferry
};
inline constexpr std::array<std::string_view, 2> carrier_policies{"pageferry", "qemu"}; // in the order of the enum

inline constexpr std::size_t most_uris = 8; // that a user can give

// The URIs to try, in order, each once: what the user gave, each well-formed, and
//   preferred: where all of them are rdma:HOST:PORT, tcp:HOST:PORT of the same hosts and ports after them. The RDMA connection
//              manager's ports and TCP's are two spaces, so both can be listened on.
//   required:  only those with rdma:. An error where there is none.
//   off:       tcp:HOST:PORT in the place of rdma:HOST:PORT.
// At most twice as many as were given.
Result<std::vector<std::string>> choose_transports(const std::vector<std::string>& given, RdmaPolicy policy);

} // namespace pageferry::monitor
