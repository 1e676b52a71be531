#include "hypervisor/qemu/emulator.h"

#include "hypervisor/qemu/launcher.h"
#include "hypervisor/qemu/program_files.h"
#include "hypervisor/qemu/text.h"

#include <sys/stat.h>

#include <array>
#include <iostream>

namespace pageferry::hypervisor {

namespace {

constexpr std::string_view prefix = "pageferry-";
constexpr auto besides_path = std::to_array<std::string_view>({"/usr/bin", "/usr/local/bin", "/usr/libexec"});
constexpr int failed = 1;
constexpr int not_executed = 127;

int report(const Error& error, int status) {
    std::cerr << "pageferry-qemu: " << error.to_string() << '\n';
    return status;
}

bool is_this_program(const std::string& file) {
    struct stat that{};
    struct stat self{};
    return ::stat(file.c_str(), &that) == 0 && ::stat("/proc/self/exe", &self) == 0 && that.st_dev == self.st_dev &&
           that.st_ino == self.st_ino;
}

} // namespace

Result<std::string> emulator_of(std::string_view called, const LauncherSettings& settings) {
    const std::string name{called.substr(called.rfind('/') + 1)}; // npos + 1 is 0
    if (const auto found = settings.emulators.find(name); found != settings.emulators.end()) {
        return found->second;
    }
    // "pageferry-qemu" is the program's own name, and no "qemu" is known.
    if (name.starts_with(prefix) && name.size() > prefix.size() && name != "pageferry-qemu") {
        return name.substr(prefix.size());
    }
    return std::unexpected(
        make_error(ErrorCode::invalid_argument, "start QEMU", std::string{called},
                   "the name this program is called by does not say which QEMU to run",
                   "call it by a link named like QEMU's program (ln -s pageferry-qemu pageferry-qemu-system-x86_64), or name one "
                   "in \"emulators\" of the settings file"));
}

Result<std::string> find_emulator(const std::string& name) {
    auto file = find_program(name, besides_path);
    if (file && is_this_program(*file)) {
        return std::unexpected(make_error(ErrorCode::invalid_argument, "execute", *file,
                                          "it is a link to pageferry-qemu itself, and no QEMU",
                                          "name QEMU's own path in \"emulators\" of the settings file, or remove the link"));
    }
    return file;
}

int run_emulator(std::vector<std::string> argv) {
    if (argv.empty()) {
        argv.emplace_back();
    }
    const auto settings = LauncherSettings::load();
    if (!settings) {
        return report(settings.error(), failed);
    }
    const auto name = emulator_of(argv[0], *settings);
    if (!name) {
        return report(name.error(), failed);
    }
    auto program = find_emulator(*name);
    if (!program) {
        return report(program.error(), not_executed);
    }
    argv[0] = std::move(*program);
    return run_qemu(std::move(argv), *settings);
}

} // namespace pageferry::hypervisor
