// Any text as the monitor process's configuration: refused, or read as something that reads back the same.
#include "hypervisor/qemu/monitor_config.h"

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using pageferry::hypervisor::MonitorConfig;
    const auto config = MonitorConfig::from_json(std::string(data, data + size));
    if (!config) {
        return 0;
    }
    const auto again = MonitorConfig::from_json(config->to_json());
    if (!again || *again != *config) {
        std::abort();
    }
    return 0;
}
