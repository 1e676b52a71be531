#include "rdma/sysfs.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>

namespace pageferry::rdma {

namespace {

namespace fs = std::filesystem;

std::string line_of(const fs::path& file) {
    std::string line;
    std::ifstream input{file};
    std::getline(input, line);
    line.erase(line.find_last_not_of(" \n") + 1);
    return line;
}

// "4: ACTIVE" -> "ACTIVE"
std::string after_colon(const std::string& text) {
    const std::size_t colon = text.find(": ");
    return colon == std::string::npos ? text : text.substr(colon + 2);
}

std::vector<std::string> names_in(const fs::path& folder) {
    std::vector<std::string> names;
    std::error_code failed;
    for (fs::directory_iterator entry{folder, failed}; !failed && entry != fs::directory_iterator{}; entry.increment(failed)) {
        names.push_back(entry->path().filename());
    }
    std::ranges::sort(names);
    return names;
}

std::vector<unsigned> numbers_in(const fs::path& folder) {
    std::vector<unsigned> numbers;
    for (const std::string& name : names_in(folder)) {
        unsigned number = 0;
        const auto read = std::from_chars(name.data(), name.data() + name.size(), number);
        if (read.ec == std::errc{} && read.ptr == name.data() + name.size()) {
            numbers.push_back(number);
        }
    }
    std::ranges::sort(numbers);
    return numbers;
}

std::optional<SysfsGid> gid_of(const fs::path& port, unsigned index) {
    const std::string number = std::to_string(index);
    in6_addr address{};
    if (::inet_pton(AF_INET6, line_of(port / "gids" / number).c_str(), &address) != 1 || IN6_IS_ADDR_UNSPECIFIED(&address)) {
        return std::nullopt;
    }
    std::array<char, INET6_ADDRSTRLEN> text{};
    ::inet_ntop(AF_INET6, &address, text.data(), text.size());
    SysfsGid gid{.index = index,
                 .gid = text.data(),
                 .type = line_of(port / "gid_attrs/types" / number),
                 .interface = line_of(port / "gid_attrs/ndevs" / number),
                 .address = text.data()};
    if (IN6_IS_ADDR_V4MAPPED(&address)) {
        ::inet_ntop(AF_INET, address.s6_addr + 12, text.data(), text.size());
        gid.address = text.data();
    }
    if (gid.type == "IB/RoCE v1") {
        gid.type = gid.interface.empty() ? "IB" : "RoCE v1";
    }
    return gid;
}

SysfsPort port_of(const fs::path& folder, unsigned number) {
    SysfsPort port{.number = number,
                   .state = after_colon(line_of(folder / "state")),
                   .physical_state = after_colon(line_of(folder / "phys_state")),
                   .link_layer = line_of(folder / "link_layer"),
                   .rate = line_of(folder / "rate"),
                   .gids = {}};
    for (const unsigned index : numbers_in(folder / "gids")) {
        if (auto gid = gid_of(folder, index)) {
            port.gids.push_back(*std::move(gid));
        }
    }
    return port;
}

} // namespace

std::vector<SysfsDevice> sysfs_devices(const std::string& root) {
    const fs::path folder = fs::path{root} / "class/infiniband";
    std::vector<SysfsDevice> devices;
    for (const std::string& name : names_in(folder)) {
        SysfsDevice device{.name = name,
                           .node_type = after_colon(line_of(folder / name / "node_type")),
                           .firmware = line_of(folder / name / "fw_ver"),
                           .ports = {}};
        for (const unsigned number : numbers_in(folder / name / "ports")) {
            device.ports.push_back(port_of(folder / name / "ports" / std::to_string(number), number));
        }
        devices.push_back(std::move(device));
    }
    return devices;
}

} // namespace pageferry::rdma
