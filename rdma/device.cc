#include "rdma/device.h"

#include <arpa/inet.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>

namespace pageferry::rdma {

namespace {

std::string gid_text(const ibv_gid& gid) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    return ::inet_ntop(AF_INET6, gid.raw, text.data(), text.size()) != nullptr ? text.data() : "?";
}

unsigned mtu_bytes(ibv_mtu mtu) {
    return 128U << static_cast<unsigned>(mtu); // IBV_MTU_256 is 1
}

Error no_device(std::string reason, std::string remedy) {
    return make_error(ErrorCode::not_found, "probe", "rdma", std::move(reason), std::move(remedy));
}

// Why libibverbs finds none: it leaves out devices of the kernel's whose nodes below /dev it does not find.
Error none_found() {
    std::error_code error;
    std::string names;
    std::filesystem::directory_iterator entry{"/sys/class/infiniband", error};
    for (; !error && entry != std::filesystem::directory_iterator{}; entry.increment(error)) {
        names += (names.empty() ? "" : ", ") + entry->path().filename().string();
    }
    if (names.empty()) {
        return no_device("this host has no RDMA device",
                         "install a device and its driver (`rdma link` shows them), or use tcp:; soft-RoCE: modprobe rdma_rxe");
    }
    return no_device(
        "no RDMA device is to be seen from here, though this host has " + names + ": /dev/infiniband/uverbs* is missing",
        "modprobe ib_uverbs (`rdma link` shows the devices); in a container, pass /dev/infiniband in; with libvirt, name "
        "rdma_cm and each uverbs device in cgroup_device_acl of qemu.conf");
}

} // namespace

Result<DeviceLimits> limits_of(ibv_context* context) {
    ibv_device_attr attributes{};
    if (const int error = ibv_query_device(context, &attributes); error != 0) {
        return std::unexpected{errno_error(error, "ibv_query_device", ibv_get_device_name(context->device))};
    }
    const auto byte = [](int value) { return static_cast<std::uint8_t>(std::clamp(value, 0, 16)); };
    return DeviceLimits{.max_mr_size = attributes.max_mr_size,
                        .max_qp_wr = static_cast<std::uint32_t>(std::max(attributes.max_qp_wr, 1)),
                        .max_cqe = static_cast<std::uint32_t>(std::max(attributes.max_cqe, 1)),
                        .max_rd_atomic = byte(attributes.max_qp_rd_atom),
                        .max_init_rd_atomic = byte(attributes.max_qp_init_rd_atom)};
}

std::string describe_device(const rdma_cm_id& id) {
    if (id.verbs == nullptr) {
        return "no device";
    }
    std::string text = ibv_get_device_name(id.verbs->device);
    text += " port " + std::to_string(id.port_num) + ", GID " + gid_text(id.route.addr.addr.ibaddr.sgid);
    ibv_port_attr port{};
    if (ibv_query_port(id.verbs, id.port_num, &port) == 0) {
        text += ", MTU " + std::to_string(mtu_bytes(port.active_mtu));
    }
    return text;
}

Result<void> any_device() {
    int count = 0;
    const std::unique_ptr<ibv_device*, Release<ibv_free_device_list>> devices{ibv_get_device_list(&count)};
    if (!devices || count == 0) {
        return std::unexpected{none_found()};
    }
    if (::access("/dev/infiniband/rdma_cm", R_OK | W_OK) != 0) {
        const int error = errno;
        return std::unexpected{errno_error(error, "open", "/dev/infiniband/rdma_cm",
                                           error == EACCES
                                               ? "this user needs read and write rights on it, and on /dev/infiniband/uverbs*"
                                               : "modprobe rdma_ucm; in a container, pass /dev/infiniband in")};
    }
    std::string down;
    int not_opened = 0;
    for (int i = 0; i < count; ++i) {
        ibv_device* const device = devices.get()[i];
        const std::unique_ptr<ibv_context, Release<ibv_close_device>> context{ibv_open_device(device)};
        ibv_device_attr attributes{};
        if (!context || ibv_query_device(context.get(), &attributes) != 0) {
            not_opened = errno;
            continue;
        }
        for (std::uint8_t port = 1; port <= attributes.phys_port_cnt; ++port) {
            ibv_port_attr state{};
            if (ibv_query_port(context.get(), port, &state) == 0 && state.state == IBV_PORT_ACTIVE) {
                return {};
            }
            down += (down.empty() ? "" : ", ") + std::string{ibv_get_device_name(device)} + " port " + std::to_string(port) +
                    ": " + ibv_port_state_str(state.state);
        }
    }
    if (down.empty()) {
        return std::unexpected{errno_error(not_opened, "ibv_open_device", ibv_get_device_name(*devices),
                                           "check the rights on /dev/infiniband/uverbs*")};
    }
    return std::unexpected{make_error(ErrorCode::unreachable, "probe", "rdma", "no RDMA port is active (" + down + ")",
                                      "check the cable and `ip link`; the port is active when its network interface is up")};
}

} // namespace pageferry::rdma
