// RDMA devices as the kernel shows them to everybody: readable where the device files are not, so that it can be said what is
// missing.
//
// Threads: any; they read files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pageferry::rdma {

struct SysfsGid {
    unsigned index = 0;
    std::string gid;       // "fe80::...", as inet_ntop writes it
    std::string type;      // "RoCE v2", "RoCE v1", "IB"
    std::string interface; // network interface; empty on InfiniBand
    std::string address;   // of an IPv4 address mapped into IPv6: "10.77.0.1"; else the GID
};

struct SysfsPort {
    unsigned number = 0;
    std::string state;          // "ACTIVE"
    std::string physical_state; // "LinkUp"
    std::string link_layer;     // "Ethernet"
    std::string rate;           // "2.5 Gb/sec (1X SDR)"
    std::vector<SysfsGid> gids; // those that are set
};

struct SysfsDevice {
    std::string name;      // "rxe0"
    std::string node_type; // "CA"
    std::string firmware;  // empty where it tells none
    std::vector<SysfsPort> ports;
};

// All devices, by name; root is where sysfs is.
std::vector<SysfsDevice> sysfs_devices(const std::string& root = "/sys");

} // namespace pageferry::rdma
