// Starts the monitor process: away from QEMU's family and session, with no descriptors but its own.
//
// Threads: one, and the process has no others at the time (it forks).
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "hypervisor/qemu/monitor_config.h"

#include <chrono>
#include <string>
#include <vector>

namespace pageferry::hypervisor {

// A monitor process that has been started. Destroyed, it kills it, unless QEMU has been exec'ed in this process (nothing is
// destroyed then).
class MonitorLaunch {
public:
    // Forks twice and executes `program --config-fd N`; stdin is /dev/null, stdout and stderr too if the configuration says
    // daemonized. `keep`: the descriptors the configuration names; `ready`: the writing end of the ready pipe, also named there.
    static Result<MonitorLaunch> start(const std::string& program, const MonitorConfig& config, std::vector<int> keep);

    MonitorLaunch(MonitorLaunch&&) noexcept = default;
    MonitorLaunch& operator=(MonitorLaunch&&) noexcept = delete;
    ~MonitorLaunch();

    // Until ready_byte has come. closed: it ended; timed_out; otherwise its own words.
    [[nodiscard]] Result<void> wait_ready(const Fd& ready, std::chrono::milliseconds timeout) const;

private:
    explicit MonitorLaunch(Fd pidfd) : pidfd_(std::move(pidfd)) {}
    Fd pidfd_;
};

} // namespace pageferry::hypervisor
