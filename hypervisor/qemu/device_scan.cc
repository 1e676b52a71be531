#include "hypervisor/qemu/plan_parts.h"

#include <algorithm>
#include <array>
#include <sstream>

namespace pageferry::hypervisor {

namespace {

std::string with_id(std::string_view name, const Properties& properties, std::string_view key) {
    const auto id = properties.get(key);
    return id ? join(name, " (", *id, ")") : std::string{name};
}

// Backends that write guest RAM from another process or from hardware.
std::optional<std::string> network_writer(const Properties& properties) {
    const std::string type = properties.get_or("type", "");
    if (type == "vhost-user" || type == "vhost-vdpa" || (type == "passt" && properties.flag("vhost-user", false))) {
        return with_id("netdev " + type, properties, "id");
    }
    return std::nullopt;
}

std::optional<std::string> block_writer(const Properties& properties) {
    for (const auto& [key, value] : properties.all()) {
        const bool driver = key == "driver" || key.ends_with(".driver");
        const bool in_process = value == "nvme" || value == "virtio-blk-vfio-pci" || value == "virtio-blk-vhost-user" ||
                                value == "virtio-blk-vhost-vdpa";
        if (driver && in_process) {
            return with_id("blockdev " + value, properties, "node-name");
        }
        if (key == "file" && value.starts_with("nvme://")) {
            return with_id("drive " + value, properties, "id");
        }
    }
    return std::nullopt;
}

std::string unquoted(std::string_view text) {
    const auto first = text.find_first_not_of(" \t\r");
    const auto last = text.find_last_not_of(" \t\r");
    if (first == std::string_view::npos) {
        return {};
    }
    text = text.substr(first, last - first + 1);
    if (text.size() >= 2 && text.front() == '"' && text.back() == '"') {
        text = text.substr(1, text.size() - 2);
    }
    return std::string{text};
}

struct Section {
    std::string group; // "device"
    Properties properties;
};

// QEMU's format: [group "id"], then key = "value"; # begins a comment line.
std::vector<Section> read_sections(const std::string& text) {
    std::vector<Section> sections;
    std::istringstream lines{text};
    for (std::string raw; std::getline(lines, raw);) {
        const std::string line = unquoted(raw);
        if (line.starts_with('[') && line.ends_with(']')) {
            const std::string head = line.substr(1, line.size() - 2);
            const auto space = head.find(' ');
            sections.push_back({.group = head.substr(0, space), .properties = {}});
            if (space != std::string::npos) {
                sections.back().properties.set("id", unquoted(head.substr(space)));
            }
        } else if (const auto equals = line.find('=');
                   equals != std::string::npos && !sections.empty() && !line.starts_with('#')) {
            sections.back().properties.set(unquoted(line.substr(0, equals)), unquoted(line.substr(equals + 1)));
        }
    }
    return sections;
}

// What of a section has to be on the command line; empty when it may stay.
std::string misplaced(const Section& section) {
    const Properties& p = section.properties;
    if (section.group == "memory") {
        return "-m";
    }
    if (section.group == "machine" && (p.has("memory-backend") || p.has("memory.size") || p.get_or("type", "") == "none")) {
        return "-machine";
    }
    if (section.group == "object" && p.get_or("qom-type", "").starts_with("memory-backend-")) {
        return "-object";
    }
    if (section.group == "numa" && p.has("memdev")) {
        return "-numa";
    }
    if (section.group == "mon" && p.get_or("mode", "") == "control") {
        return "-mon";
    }
    return {};
}

} // namespace

std::optional<std::string> untracked_writer(const Properties& device) {
    const std::string driver = device.get_or("driver", "");
    static constexpr auto prefixes =
        std::to_array<std::string_view>({"vfio-", "x-vfio-", "vhost-user-", "vhost-vdpa-", "vhost-scsi", "ivshmem-"});
    const auto fits = [&](std::string_view prefix) { return driver.starts_with(prefix); };
    // scsi-block hands the guest's pages to SG_IO, which writes them as direct I/O does.
    const bool writes = driver == "scsi-block" || std::ranges::any_of(prefixes, fits);
    return writes ? std::optional{with_id(driver, device, "id")} : std::nullopt;
}

// A plain balloon is not one of them: it is inflated now and then, when somebody says so.
std::optional<std::string> discarder(const Properties& device) {
    const std::string driver = device.get_or("driver", "");
    const bool reports = driver.starts_with("virtio-balloon") && device.flag("free-page-reporting", false);
    if (!reports && !driver.starts_with("virtio-mem-")) {
        return std::nullopt;
    }
    return with_id(driver, device, "id") + (reports ? " by free page reporting" : "");
}

Result<void> scan_devices(const CommandLine& line, LaunchPlan& plan) {
    for (const Word& word : line.words) {
        const Option& option = word.option;
        const bool network = option.is("netdev") || option.is("nic") || option.is("net");
        const bool block = option.is("blockdev") || option.is("drive");
        if (!option.is("device") && !network && !block) {
            continue;
        }
        auto properties = Properties::parse(option.value, network ? "type" : block ? "file" : "driver");
        if (!properties) {
            return std::unexpected(properties.error());
        }
        const auto writer = network ? network_writer(*properties)
                            : block ? block_writer(*properties)
                                    : untracked_writer(*properties);
        if (writer) {
            plan.untracked_writers.push_back(*writer);
        }
        if (auto gives = option.is("device") ? discarder(*properties) : std::nullopt) {
            plan.discarders.push_back(std::move(*gives));
        }
    }
    return {};
}

Result<void> check_config_file(const Option& option, const Host& host, LaunchPlan& plan) {
    auto text = host.read_text(option.value);
    if (!text) {
        return std::unexpected(text.error());
    }
    for (const Section& section : read_sections(*text)) {
        if (const std::string belongs = misplaced(section); !belongs.empty()) {
            return std::unexpected(make_error(ErrorCode::unsupported, "start QEMU", to_text(option),
                                              join("section [", section.group, "] sets what Pageferry has to see and change"),
                                              join("move it to the command line, as ", belongs)));
        }
        if (section.group == "device") {
            if (auto writer = untracked_writer(section.properties)) {
                plan.untracked_writers.push_back(std::move(*writer));
            }
            if (auto gives = discarder(section.properties)) {
                plan.discarders.push_back(std::move(*gives));
            }
        }
    }
    return {};
}

} // namespace pageferry::hypervisor
