// What is to be done to start QEMU with Pageferry: the result of reading a QEMU command line (command_line.h), carried out by the
// launcher (launcher.h).
//
// Threads: plain values.
#pragma once

#include "hypervisor/qemu/monitor_config.h"

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace pageferry::hypervisor {

// A descriptor number inside an argument, known only once the launcher has made the descriptor.
enum class Slot { none, ram_file, private_monitor, user_monitor };

struct PlannedArgument {
    std::string before; // the whole argument where there is no slot
    Slot slot = Slot::none;
    std::size_t index = 0; // into LaunchPlan::ram or LaunchPlan::monitors
    std::string after;
};

enum class MonitorKind { unix_listen, unix_connect, tcp_listen, tcp_connect, fd_listen, fd_connected, stdio };

// A control monitor the user asked for, which Pageferry serves in QEMU's place.
struct PlannedMonitor {
    std::string id;      // of the chardev
    std::string address; // for people: "unix:/run/vm.qmp"
    MonitorKind kind = MonitorKind::stdio;
    std::string path;           // unix; without the leading zero byte where abstract
    bool abstract = false;      // unix
    bool tight = true;          // unix, abstract: the address is as long as the name
    std::string host;           // tcp; empty: any address
    std::string port;           // tcp; a number or a service name
    std::optional<unsigned> to; // tcp_listen: the last port to try
    std::optional<bool> ipv4;   // tcp
    std::optional<bool> ipv6;   // tcp
    bool nodelay = false;       // tcp
    int fd = -1;                // fd_listen, fd_connected
    bool wait = false;          // *_listen: QEMU starts only when the first client has come
    bool pretty = false;
};

struct PlannedRam {
    RamBackend backend;
    bool ours = false; // the launcher makes the file (memory/ram_file.h); backend.mem_path, device and inode are not known yet
};

struct LaunchPlan {
    bool plain = false;                     // exec QEMU as given, with nothing beside it; all that follows is empty
    std::vector<PlannedArgument> arguments; // argv, from the binary on
    std::vector<PlannedRam> ram;
    std::vector<PlannedMonitor> monitors;
    bool incoming_given = false;
    std::string incoming; // "defer", a URI that Pageferry carries, or QEMU's own
    bool incoming_native = false;
    bool autostart = true; // the user did not give -S
    bool daemonize = false;
    std::string guest_name;
    std::vector<std::string> untracked_writers;
    std::vector<std::string> discarders;
};

// argv with every slot filled in; `number` gives the descriptor of a slot.
std::vector<std::string> render(const LaunchPlan& plan, const std::function<int(Slot, std::size_t)>& number);

} // namespace pageferry::hypervisor
