// What this host has for RDMA, as the ABI's inspect() tells it: devices, ports, GIDs, limits, and lines for people.
//
// Threads: any.
#pragma once

#include "rdma/sysfs.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pageferry::rdma {

// What only an opened device tells.
struct OpenedPort {
    unsigned number = 0;
    unsigned active_mtu = 0; // bytes
    unsigned max_mtu = 0;    // bytes
};
struct OpenedDevice {
    std::uint64_t max_mr_size = 0; // bytes
    std::uint32_t max_mr = 0;
    std::uint32_t max_qp = 0;
    std::uint32_t max_qp_wr = 0;
    std::uint32_t max_cqe = 0;
    std::uint32_t max_qp_rd_atom = 0;
    std::uint32_t max_qp_init_rd_atom = 0;
    bool odp = false;                     // on-demand paging at all
    std::vector<std::string> odp_rc_caps; // "send", "write", "read": of reliable connections
    std::vector<OpenedPort> ports;
};

struct InspectedDevice {
    SysfsDevice seen;
    std::optional<OpenedDevice> opened;
    std::string reason; // why it could not be opened, and what to do
    std::string remedy;
};

// Pure.
std::string inspection_text(const std::vector<InspectedDevice>& devices);

std::vector<InspectedDevice> inspect_devices();

// The ABI's inspect().
int inspect(char* buffer, std::size_t capacity, std::size_t* length);

} // namespace pageferry::rdma
