// Any text as the launcher's settings file: refused with words, or read.
#include "hypervisor/qemu/launcher_settings.h"

#include <cstdint>
#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using pageferry::hypervisor::LauncherSettings;
    const auto settings = LauncherSettings::parse(std::string(data, data + size), "qemu.json");
    if (!settings && (settings.error().reason.empty() || settings.error().object != "qemu.json")) {
        std::abort();
    }
    return 0;
}
