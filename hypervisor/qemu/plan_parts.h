// The parts the planner (command_line.cc) is made of; nobody else includes this.
#pragma once

#include "hypervisor/qemu/command_line.h"
#include "hypervisor/qemu/launch_plan.h"
#include "hypervisor/qemu/qemu_options.h"
#include "hypervisor/qemu/text.h"

#include <optional>
#include <string>
#include <vector>

namespace pageferry::hypervisor {

// One option of the user's, and what stands in its place in the end.
struct Word {
    Option option;
    std::optional<std::vector<PlannedArgument>> replacement; // empty vector: removed
};

struct CommandLine {
    std::string binary;
    std::vector<Word> words;
    std::vector<PlannedArgument> added; // at the end
    Properties machine;                 // all -machine and -M together, "type" is the machine type

    [[nodiscard]] bool has(std::string_view name) const;
    // The last value of this option.
    [[nodiscard]] std::optional<std::string> value(std::string_view name) const;
    void add(std::string text) { added.push_back({.before = std::move(text), .slot = Slot::none, .index = 0, .after = {}}); }
};

PlannedArgument plain_argument(std::string text);

// Guest RAM on a shared file: adds a backend where there is none, checks those that are there, fills LaunchPlan::ram.
Result<void> plan_ram(CommandLine& line, const Host& host, LaunchPlan& plan);

// Whether a memory backend (its qom-type) is RAM without a file of the user's, which on_file_of_ours() can put on one.
bool is_without_file(std::string_view type);

// The value of such an -object as a shared memory-backend-file on the file of LaunchPlan::ram[index]. It keeps what both have
// (size, policy, prealloc, ...), in the syntax and with the name of the RAM block it had. invalid_argument: it has a property
// that only a memory-backend-file has, which QEMU would refuse.
Result<PlannedArgument> on_file_of_ours(const Option& option, const Properties& properties, std::size_t index);

// Takes over the user's control monitors and adds the private one; keeps the default human monitor, which QEMU would drop.
Result<void> plan_monitors(CommandLine& line, LaunchPlan& plan);

// Devices that write guest RAM without QEMU's page tables, and those that give it back to the host whenever they like: fills
// LaunchPlan::untracked_writers and discarders.
Result<void> scan_devices(const CommandLine& line, LaunchPlan& plan);

// What a -readconfig file must not hold, since the planner would have to change it; its devices are looked at too.
Result<void> check_config_file(const Option& option, const Host& host, LaunchPlan& plan);

// For scan_devices and check_config_file: a name for a device that is one, such as "vfio-pci (hostdev0)".
std::optional<std::string> untracked_writer(const Properties& device);
std::optional<std::string> discarder(const Properties& device);

} // namespace pageferry::hypervisor
