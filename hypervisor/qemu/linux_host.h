// The Host of real life: file systems by statfs, the huge page pools by sysfs.
//
// Threads: any; no state.
#pragma once

#include "hypervisor/qemu/command_line.h"

namespace pageferry::hypervisor {

class LinuxHost : public Host {
public:
    [[nodiscard]] Result<PathStatus> status(const std::string& path) const override;
    [[nodiscard]] Result<std::string> read_text(const std::string& path) const override;
    [[nodiscard]] bool switched_off() const override;
};

} // namespace pageferry::hypervisor
