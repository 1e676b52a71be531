// A memory backend without a file becomes one on a file of ours: the words of it.
#include "hypervisor/qemu/plan_parts.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>

namespace pageferry::hypervisor {

namespace {

// Of memory-backend-memfd alone; memory-backend-ram and -shm have none of their own.
constexpr auto not_of_files = std::to_array<std::string_view>({"hugetlb", "hugetlbsize", "seal"});
constexpr auto only_of_files =
    std::to_array<std::string_view>({"mem-path", "align", "offset", "discard-data", "pmem", "readonly", "rom"});
constexpr std::string_view old_name = "x-use-canonical-path-for-ramblock-id";
// For transparent huge pages; QEMU does that by itself only for RAM without a file.
constexpr unsigned alignment = 2U << 20U;
constexpr std::string_view folder = "/proc/self/fd/";

// Machine types before 4.0 name the block of a memory-backend-file (and -memfd) "/objects/ID", but never that of a
// memory-backend-ram: its name has to stay.
bool needs_short_name(const Properties& properties) {
    return properties.get_or("qom-type", "") == "memory-backend-ram" && !properties.has(old_name);
}

PlannedArgument as_json(const std::string& text, const Properties& properties, std::size_t index) {
    auto object = nlohmann::ordered_json::parse(text); // it has been read before
    for (const std::string_view key : not_of_files) {
        object.erase(std::string{key});
    }
    if (needs_short_name(properties)) {
        object[std::string{old_name}] = false;
    }
    object["qom-type"] = "memory-backend-file";
    object["share"] = true;
    object["align"] = alignment;
    std::string before = object.dump();
    before.pop_back(); // the brace
    return {.before = join(before, R"(,"mem-path":")", folder), .slot = Slot::ram_file, .index = index, .after = R"("})"};
}

PlannedArgument as_list(Properties properties, std::size_t index) {
    const bool short_name = needs_short_name(properties);
    for (const std::string_view key : not_of_files) {
        properties.erase(key);
    }
    if (short_name) {
        properties.set(old_name, "off");
    }
    properties.set("qom-type", "memory-backend-file");
    properties.set("share", "on");
    properties.set("align", std::to_string(alignment));
    return {.before = join(properties.to_string("qom-type"), ",mem-path=", folder),
            .slot = Slot::ram_file,
            .index = index,
            .after = {}};
}

} // namespace

bool is_without_file(std::string_view type) {
    return type == "memory-backend-ram" || type == "memory-backend-memfd" || type == "memory-backend-shm";
}

Result<PlannedArgument> on_file_of_ours(const Option& option, const Properties& properties, std::size_t index) {
    const auto there = [&](std::string_view key) { return properties.has(key); };
    if (const auto* const key = std::ranges::find_if(only_of_files, there); key != only_of_files.end()) {
        return std::unexpected(make_error(ErrorCode::invalid_argument, "start QEMU", to_text(option),
                                          join("a ", properties.get_or("qom-type", ""), " has no property '", *key, "'"),
                                          join("leave it out, or use -object memory-backend-file")));
    }
    return option.value.starts_with('{') ? as_json(option.value, properties, index) : as_list(properties, index);
}

} // namespace pageferry::hypervisor
