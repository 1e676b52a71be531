// The user's control monitors, opened as QEMU would have opened them.
//
// Threads: one at a time.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "hypervisor/qemu/launch_plan.h"
#include "hypervisor/qemu/monitor_config.h"

#include <string>
#include <vector>

namespace pageferry::hypervisor {

// An open monitor. Destroyed, it removes the socket file it made.
class MonitorSocket {
public:
    // Binds and listens (a socket file in the way is replaced, as QEMU does), or connects, or takes the inherited descriptor or
    // stdio. All descriptors are close-on-exec from here on. With wait, it blocks until the first client has come, and says on
    // stderr that it does. Errors: the socket calls'; in_use where the path is a file of another kind; invalid_argument where an
    // inherited descriptor is no such socket.
    static Result<MonitorSocket> open(const PlannedMonitor& plan);

    MonitorSocket(MonitorSocket&& other) noexcept;
    MonitorSocket& operator=(MonitorSocket&& other) noexcept = delete;
    ~MonitorSocket();

    // What the monitor process is told; `backend` is the number of its end towards QEMU.
    [[nodiscard]] UserMonitor describe(const PlannedMonitor& plan, int backend) const;
    void append_numbers(std::vector<int>& to) const;

private:
    MonitorSocket() = default;
    Result<void> listen_unix(const PlannedMonitor& plan);
    Result<void> connect_unix(const PlannedMonitor& plan);
    Result<void> tcp(const PlannedMonitor& plan);
    Result<void> inherited(const PlannedMonitor& plan);
    Result<void> stdio();
    Result<void> wait_for_client(const PlannedMonitor& plan);

    std::vector<Fd> listeners_;
    Fd connected_;
    Fd input_;
    Fd output_;
    std::string unlink_path_;
};

} // namespace pageferry::hypervisor
