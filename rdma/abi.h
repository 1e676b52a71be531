// The transport ABI over this library: the table of functions that the plugin hands out.
#pragma once

#include "transport/abi/pageferry_transport.h"

#include <cstdint>

namespace pageferry::rdma {

// nullptr: a host of another ABI version.
const pf_transport* transport_table(std::uint32_t host_abi_version);

} // namespace pageferry::rdma
