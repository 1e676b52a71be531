#include "hypervisor/qemu/monitor_config.h"

#include <nlohmann/json.hpp>

namespace pageferry::hypervisor {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(UserMonitor, id, address, listen_fd, more_listen_fds, connected_fd, input_fd, output_fd,
                                   backend_fd, pretty, tcp_nodelay, unlink_path)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RamBackend, id, size, mem_path, directory, device, inode)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(MonitorConfig, qemu_pid, qemu_pidfd, qmp_fd, agent_fd, ready_fd, qemu_binary, guest_name,
                                   user_monitors, incoming_given, incoming, incoming_native, autostart, ram, untracked_writers,
                                   discarders, daemonized, log, parameters, settings_file)

std::string MonitorConfig::to_json() const {
    // Paths may hold any bytes; JSON may not. Such a path is for people only and loses those bytes.
    return nlohmann::json(*this).dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

Result<MonitorConfig> MonitorConfig::from_json(std::string_view text) {
    try {
        return nlohmann::json::parse(text).get<MonitorConfig>();
    } catch (const nlohmann::json::exception& error) {
        return std::unexpected(make_error(ErrorCode::protocol, "read the monitor process's configuration", {}, error.what(),
                                          "pageferry and pageferry-monitor must come from the same build"));
    }
}

} // namespace pageferry::hypervisor
