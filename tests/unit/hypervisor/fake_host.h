// A machine for the planner's tests: /dev/shm and /mnt/big are tmpfs, /dev/hugepages is hugetlbfs, everything else is a disk.
#pragma once

#include "hypervisor/qemu/command_line.h"

#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace pageferry::hypervisor::test {

inline constexpr std::uint64_t mib = 1024 * 1024;
inline constexpr std::uint64_t gib = 1024 * mib;

class FakeHost : public Host {
public:
    [[nodiscard]] Result<PathStatus> status(const std::string& path) const override {
        using enum PathStatus::FileSystem;
        const auto under = [&](std::string_view prefix) { return path.starts_with(prefix); };
        if (under("/nowhere")) {
            return std::unexpected(errno_error(2, "stat", path));
        }
        PathStatus at;
        at.exists = true;
        at.directory = path == "/dev/shm" || path == "/dev/hugepages" || path == "/data";
        at.device = 7;
        at.inode = 77;
        if (under("/dev/shm")) {
            at.file_system = tmpfs;
            at.mount_point = "/dev/shm";
            at.total_bytes = 8 * gib;
            at.free_bytes = 6 * gib;
            at.allocated = path == "/dev/shm/full" ? 4 * gib : 0;
        } else if (under("/mnt/big")) {
            at.file_system = tmpfs;
            at.mount_point = "/mnt/big";
        } else if (under("/dev/hugepages")) {
            at.file_system = hugetlbfs;
            at.mount_point = "/dev/hugepages";
            at.page_size = 2 * mib;
            at.total_bytes = at.free_bytes = 2 * gib;
        } else {
            at.mount_point = "/";
        }
        return at;
    }
    [[nodiscard]] Result<std::string> read_text(const std::string& path) const override {
        const auto found = files.find(path);
        if (found == files.end()) {
            return std::unexpected(errno_error(2, "open", path));
        }
        return found->second;
    }
    [[nodiscard]] bool switched_off() const override { return off; }

    std::map<std::string, std::string> files;
    bool off = false;
};

// A command line written with single spaces between its words.
inline std::vector<std::string> words(const std::string& text) {
    std::vector<std::string> result;
    std::istringstream in{text};
    for (std::string word; in >> word;) {
        result.push_back(word);
    }
    return result;
}

inline Result<LaunchPlan> plan(const std::string& line, const FakeHost& host = {}) {
    return plan_launch(words(line), host);
}

// The planned command line with letters where descriptors will be: @ram0, @qmp, @user0.
inline std::string line_of(const LaunchPlan& plan) {
    std::string text;
    for (const PlannedArgument& argument : plan.arguments) {
        text += text.empty() ? "" : " ";
        text += argument.before;
        switch (argument.slot) {
        case Slot::none: break;
        case Slot::ram_file: text += "@ram" + std::to_string(argument.index); break;
        case Slot::private_monitor: text += "@qmp"; break;
        case Slot::user_monitor: text += "@user" + std::to_string(argument.index); break;
        }
        text += argument.after;
    }
    return text;
}

} // namespace pageferry::hypervisor::test
