#include "monitor/plugged_memory.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <string_view>

namespace pageferry::monitor {

namespace {

using nlohmann::json;

// A directory: QEMU makes a file without a name in it.
constexpr const char* folder = "/dev/shm";
constexpr auto without_file =
    std::to_array<std::string_view>({"memory-backend-ram", "memory-backend-memfd", "memory-backend-shm"});
constexpr auto not_of_files = std::to_array<const char*>({"hugetlb", "hugetlbsize", "seal"});
constexpr auto only_of_files =
    std::to_array<const char*>({"mem-path", "align", "offset", "discard-data", "pmem", "readonly", "rom"});
constexpr const char* old_name = "x-use-canonical-path-for-ramblock-id"; // machine types before 4.0: see ram_file_argument.cc

std::string text_of(const json& object, const char* key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string{};
}

} // namespace

std::optional<std::string> on_shared_file(const json& message) {
    if (!message.is_object() || text_of(message, "execute") != "object-add") {
        return std::nullopt;
    }
    const auto arguments = message.find("arguments");
    if (arguments == message.end() || !arguments->is_object()) {
        return std::nullopt;
    }
    const std::string type = text_of(*arguments, "qom-type");
    const auto there = [&](const char* key) { return arguments->contains(key); };
    if (std::ranges::find(without_file, type) == without_file.end() || std::ranges::any_of(only_of_files, there)) {
        return std::nullopt;
    }
    if (const auto huge = arguments->find("hugetlb"); huge != arguments->end() && *huge != json(false)) {
        return std::nullopt;
    }
    json instead = message;
    json& object = instead["arguments"];
    for (const char* key : not_of_files) {
        object.erase(key);
    }
    if (type == "memory-backend-ram" && !object.contains(old_name)) {
        object[old_name] = false;
    }
    object["qom-type"] = "memory-backend-file";
    object["mem-path"] = folder;
    object["share"] = true;
    return instead.dump(-1, ' ', true);
}

} // namespace pageferry::monitor
