#include "rdma/inspect.h"

#include "base/error.h"
#include "rdma/handles.h"
#include "rdma/kit.h"
#include "transport/plugin/answers.h"

#include <nlohmann/json.hpp>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace pageferry::rdma {

namespace {

using nlohmann::json;

unsigned mtu_bytes(ibv_mtu mtu) {
    return 128U << static_cast<unsigned>(mtu); // IBV_MTU_256 is 1
}

std::vector<std::string> odp_names(std::uint32_t bits) {
    constexpr std::pair<std::uint32_t, const char*> names[] = {
        {IBV_ODP_SUPPORT_SEND, "send"}, {IBV_ODP_SUPPORT_RECV, "receive"},  {IBV_ODP_SUPPORT_WRITE, "write"},
        {IBV_ODP_SUPPORT_READ, "read"}, {IBV_ODP_SUPPORT_ATOMIC, "atomic"}, {IBV_ODP_SUPPORT_SRQ_RECV, "shared receive"}};
    std::vector<std::string> found;
    for (const auto& [bit, name] : names) {
        if ((bits & bit) != 0) {
            found.emplace_back(name);
        }
    }
    return found;
}

std::uint32_t count(int value) {
    return static_cast<std::uint32_t>(std::max(value, 0));
}

// libibverbs does not keep why it could not open one: its device file usually says it.
Error not_opened(const ibv_device* device, int error) {
    const std::string file = std::string{"/dev/infiniband/"} + device->dev_name;
    if (::access(file.c_str(), R_OK | W_OK) == 0) {
        return errno_error(error != 0 ? error : ENODEV, "ibv_open_device", device->name,
                           "is the package ibverbs-providers installed?");
    }
    const int reason = errno;
    return errno_error(reason, "open", file,
                       reason == EACCES || reason == EPERM
                           ? "this user needs read and write rights on it, and on /dev/infiniband/rdma_cm"
                           : "modprobe ib_uverbs; in a container, pass /dev/infiniband in");
}

Result<OpenedDevice> ask(ibv_device* device) {
    errno = 0;
    const std::unique_ptr<ibv_context, Release<ibv_close_device>> context{ibv_open_device(device)};
    if (!context) {
        return std::unexpected{not_opened(device, errno)};
    }
    ibv_device_attr_ex extended{};
    if (const int error = ibv_query_device_ex(context.get(), nullptr, &extended); error != 0) {
        return std::unexpected{errno_error(error, "ibv_query_device_ex", ibv_get_device_name(device))};
    }
    const ibv_device_attr& limits = extended.orig_attr;
    OpenedDevice opened{.max_mr_size = limits.max_mr_size,
                        .max_mr = count(limits.max_mr),
                        .max_qp = count(limits.max_qp),
                        .max_qp_wr = count(limits.max_qp_wr),
                        .max_cqe = count(limits.max_cqe),
                        .max_qp_rd_atom = count(limits.max_qp_rd_atom),
                        .max_qp_init_rd_atom = count(limits.max_qp_init_rd_atom),
                        .odp = (extended.odp_caps.general_caps & IBV_ODP_SUPPORT) != 0,
                        .odp_rc_caps = odp_names(extended.odp_caps.per_transport_caps.rc_odp_caps),
                        .ports = {}};
    for (std::uint8_t number = 1; number <= limits.phys_port_cnt; ++number) {
        ibv_port_attr port{};
        if (ibv_query_port(context.get(), number, &port) == 0) {
            opened.ports.push_back(
                OpenedPort{.number = number, .active_mtu = mtu_bytes(port.active_mtu), .max_mtu = mtu_bytes(port.max_mtu)});
        }
    }
    return opened;
}

// --- lines for people

json finding(std::string what, std::string value) {
    return json{{"what", std::move(what)}, {"value", std::move(value)}};
}

json good(std::string what, std::string value) {
    json line = finding(std::move(what), std::move(value));
    line["ok"] = true;
    return line;
}

json bad(std::string what, std::string value, std::string reason, std::string remedy) {
    json line = finding(std::move(what), std::move(value));
    line["ok"] = false;
    line["reason"] = std::move(reason);
    line["remedy"] = std::move(remedy);
    return line;
}

std::string size_text(std::uint64_t bytes) {
    constexpr std::pair<unsigned, const char*> units[] = {{60, " EiB"}, {50, " PiB"}, {40, " TiB"}, {30, " GiB"}, {20, " MiB"}};
    for (const auto& [shift, name] : units) {
        if (bytes >> shift != 0) {
            // A device without a limit says 2^64 - 1.
            return bytes == ~std::uint64_t{0} ? "unlimited" : std::to_string(bytes >> shift) + name;
        }
    }
    return std::to_string(bytes) + " bytes";
}

const OpenedPort* port_of(const InspectedDevice& device, unsigned number) {
    if (!device.opened) {
        return nullptr;
    }
    const auto found = std::ranges::find(device.opened->ports, number, &OpenedPort::number);
    return found == device.opened->ports.end() ? nullptr : &*found;
}

void add_port(json& lines, const InspectedDevice& device, const SysfsPort& port) {
    const std::string name = device.seen.name + " port " + std::to_string(port.number);
    std::string value = port.state + ", " + port.link_layer + ", " + port.rate;
    if (const OpenedPort* opened = port_of(device, port.number)) {
        value += ", MTU " + std::to_string(opened->active_mtu) + " of " + std::to_string(opened->max_mtu);
    }
    lines.push_back(port.state == "ACTIVE"
                        ? good(name, value)
                        : bad(name, value, "the port is not active (" + port.physical_state + ")",
                              port.link_layer == "Ethernet"
                                  ? "check the cable, and `ip link`: it is active when its network interface is up"
                                  : "check the cable, and that a subnet manager runs in the fabric"));
    // RoCE v2 is what passes routers and what the connection manager takes; v1 of the same address says nothing more.
    std::size_t usable = 0;
    for (const SysfsGid& gid : port.gids) {
        const bool roce = !gid.interface.empty();
        const bool link_local = gid.gid.starts_with("fe80:");
        usable += roce && !link_local ? 1U : 0U;
        lines.push_back(finding(name + " GID " + std::to_string(gid.index),
                                gid.type + ", " + gid.address + (roce ? ", " + gid.interface : "")));
    }
    if (port.link_layer == "Ethernet" && port.state == "ACTIVE" && usable == 0) {
        lines.push_back(bad(name + " address", "none", "its network interface has no IP address but the link-local one",
                            "give it one: ip address add ADDRESS/PREFIX dev INTERFACE"));
    }
}

void add_device(json& lines, const InspectedDevice& device) {
    const SysfsDevice& seen = device.seen;
    const std::string value = seen.node_type + (seen.firmware.empty() ? "" : ", firmware " + seen.firmware);
    lines.push_back(device.opened ? good(seen.name, value) : bad(seen.name, value, device.reason, device.remedy));
    if (device.opened) {
        const OpenedDevice& limits = *device.opened;
        lines.push_back(finding(seen.name + " limits", "region " + size_text(limits.max_mr_size) + ", " +
                                                           std::to_string(limits.max_mr) + " regions, " +
                                                           std::to_string(limits.max_qp_wr) + " work requests, " +
                                                           std::to_string(limits.max_qp_rd_atom) + " reads"));
        std::string odp = limits.odp ? "yes, reliable connections:" : "none: all of a guest's RAM is pinned";
        for (const std::string& one : limits.odp_rc_caps) {
            odp += (odp.ends_with(':') ? " " : ", ") + one;
        }
        lines.push_back(finding(seen.name + " on-demand paging", odp));
    }
    for (const SysfsPort& port : seen.ports) {
        add_port(lines, device, port);
    }
}

// --- for tools

json port_json(const InspectedDevice& device, const SysfsPort& port) {
    json gids = json::array();
    for (const SysfsGid& gid : port.gids) {
        gids.push_back({{"index", gid.index},
                        {"gid", gid.gid},
                        {"type", gid.type},
                        {"address", gid.address},
                        {"interface", gid.interface.empty() ? json(nullptr) : json(gid.interface)}});
    }
    json entry{{"port", port.number},           {"state", port.state}, {"physical_state", port.physical_state},
               {"link_layer", port.link_layer}, {"rate", port.rate},   {"gids", std::move(gids)}};
    if (const OpenedPort* opened = port_of(device, port.number)) {
        entry["active_mtu"] = opened->active_mtu;
        entry["max_mtu"] = opened->max_mtu;
    }
    return entry;
}

json device_json(const InspectedDevice& device) {
    json entry{{"name", device.seen.name}, {"node_type", device.seen.node_type}, {"firmware", device.seen.firmware}};
    if (device.opened) {
        const OpenedDevice& limits = *device.opened;
        entry["limits"] = {{"max_mr_size", limits.max_mr_size},
                           {"max_mr", limits.max_mr},
                           {"max_qp", limits.max_qp},
                           {"max_qp_wr", limits.max_qp_wr},
                           {"max_cqe", limits.max_cqe},
                           {"max_qp_rd_atom", limits.max_qp_rd_atom},
                           {"max_qp_init_rd_atom", limits.max_qp_init_rd_atom}};
        entry["odp"] = {{"supported", limits.odp}, {"rc", limits.odp_rc_caps}};
    }
    json ports = json::array();
    for (const SysfsPort& port : device.seen.ports) {
        ports.push_back(port_json(device, port));
    }
    entry["ports"] = std::move(ports);
    return entry;
}

} // namespace

std::string inspection_text(const std::vector<InspectedDevice>& devices) {
    json lines = json::array();
    json entries = json::array();
    for (const InspectedDevice& device : devices) {
        add_device(lines, device);
        entries.push_back(device_json(device));
    }
    const json all{{"findings", std::move(lines)}, {"devices", std::move(entries)}};
    return all.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::vector<InspectedDevice> inspect_devices() {
    int number = 0;
    const std::unique_ptr<ibv_device*, Release<ibv_free_device_list>> list{ibv_get_device_list(&number)};
    std::vector<InspectedDevice> devices;
    for (SysfsDevice& seen : sysfs_devices()) {
        InspectedDevice device{.seen = std::move(seen),
                               .opened = {},
                               .reason = "libibverbs does not show it",
                               .remedy =
                                   "modprobe ib_uverbs; install ibverbs-providers; in a container, pass /dev/infiniband in"};
        for (int i = 0; list && i < number; ++i) {
            ibv_device* const one = list.get()[i];
            if (device.seen.name != ibv_get_device_name(one)) {
                continue;
            }
            if (auto opened = ask(one)) {
                device.opened = *std::move(opened);
                device.reason.clear();
                device.remedy.clear();
            } else {
                device.reason = opened.error().operation + " " + opened.error().object + ": " + opened.error().reason;
                device.remedy = opened.error().remedy;
            }
        }
        devices.push_back(std::move(device));
    }
    return devices;
}

int inspect(char* buffer, std::size_t capacity, std::size_t* length) {
    return plugin::guarded(nullptr, "inspect", [&] {
        if (length == nullptr || (buffer == nullptr && capacity > 0)) {
            return int{PF_INVALID};
        }
        const std::string text = inspection_text(inspect_devices());
        *length = text.size();
        if (text.size() > capacity) {
            return int{PF_AGAIN};
        }
        std::memcpy(buffer, text.data(), text.size());
        return int{PF_OK};
    });
}

} // namespace pageferry::rdma
