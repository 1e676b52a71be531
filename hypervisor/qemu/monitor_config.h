// What the launcher tells the monitor process: JSON in the memfd given as --config-fd N. Descriptor numbers are the monitor
// process's own; apart from 0, 1 and 2 (stdin is /dev/null) it has no others.
//
// The ready pipe (ready_fd) goes from the monitor process to the launcher, one byte at a time:
//   ready_byte   its monitors are served and its own start is complete: only now does the launcher exec QEMU;
//   up_byte      QEMU has answered a command on the private monitor, so its start has succeeded (-daemonize waits for this);
//   failed_byte  then text up to the end of the pipe: it cannot go on. The launcher prints the text and gives up.
// Nobody reads after ready_byte unless `daemonized`: writing up_byte may give EPIPE (ignore SIGPIPE).
//
// Threads: plain values.
#pragma once

#include "base/error.h"

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::hypervisor {

inline constexpr char ready_byte = 'R';
inline constexpr char up_byte = 'U';
inline constexpr char failed_byte = 'E';

// A QMP monitor the user asked for, served by the monitor process. Descriptors that do not apply are -1.
struct UserMonitor {
    std::string id;                   // QEMU's chardev id
    std::string address;              // for people: "unix:/run/vm.qmp", "fd:9", "stdio"
    int listen_fd = -1;               // a listening socket: clients come and go
    std::vector<int> more_listen_fds; // where a TCP host name has several addresses: listening sockets too
    int connected_fd = -1;            // a connected client: with wait=on the first one, with server=off the only one
    int input_fd = -1;                // stdio: both, and no sockets
    int output_fd = -1;               //
    int backend_fd = -1;              // QEMU's own QMP monitor for this one; a Unix stream socket, so descriptors pass
    bool pretty = false;              // replies of our own are to be indented; QEMU's already are
    bool tcp_nodelay = true;          // for accepted TCP clients
    std::string unlink_path;          // a socket file the launcher made: the monitor process removes it when it ends
    bool operator==(const UserMonitor&) const = default;
};

// A memory backend that holds guest RAM.
struct RamBackend {
    std::string id;         // "pc.ram": also the RAM block's name, unless an old machine type makes it "/objects/ID"
    std::uint64_t size = 0; // bytes
    std::string
        mem_path; // as in QEMU's arguments: a file, a directory (then QEMU makes an unlinked file there), or /proc/self/fd/N
    bool directory = false;   // mem_path is one: find the mapping by "MEM_PATH/qemu_back_mem.ID." at the start of its path
    std::uint64_t device = 0; // st_dev and st_ino, where the file is there before QEMU starts (always with a memfd); otherwise 0
    std::uint64_t inode = 0;
    bool operator==(const RamBackend&) const = default;
};

struct MonitorConfig {
    pid_t qemu_pid = 0;
    int qemu_pidfd = -1; // readable when QEMU (or the launcher before it) has ended: then end at once
    int qmp_fd = -1;     // the private monitor, before the greeting
    int agent_fd = -1;   // for AgentClient
    int ready_fd = -1;
    std::string qemu_binary;                // argv[0] as the user gave it
    std::string guest_name;                 // -name guest=, empty where not given
    std::vector<UserMonitor> user_monitors; // may be empty
    bool incoming_given = false;            // -incoming: this QEMU is a destination
    std::string incoming;                   // "defer", or the URI; empty where not given
    bool incoming_native = false;           // fd:, exec: or file:, which QEMU does by itself; without -S of ours
    bool autostart = true; // false: the user gave -S, so the guest is not to run by itself at the end of a migration
    std::vector<RamBackend> ram;
    std::vector<std::string>
        untracked_writers; // devices that write guest RAM from outside: "vfio-pci hostdev0"; migrate is to be refused
    std::vector<std::string> discarders; // devices that give guest RAM back to the host at any time: "virtio-mem-pci (vm0)"
    bool daemonized = false;
    std::string log;           // "stderr", "none" or a file to append to
    std::string parameters;    // the migration parameters' first values, as of migrate-set-parameters: a JSON object, or empty
    std::string settings_file; // where those are from; for people
    bool operator==(const MonitorConfig&) const = default;

    [[nodiscard]] std::string to_json() const;
    // protocol, with the member's name, where the text is no such JSON. Members it does not know are ignored.
    static Result<MonitorConfig> from_json(std::string_view text);
};

} // namespace pageferry::hypervisor
