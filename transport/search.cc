// Where plugins are looked for. No dlopen here: the monitor process links this and nothing that could load code.
#include "transport/loader.h"
#include "transport/uri.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string_view>
#include <system_error>

namespace pageferry::transport {

namespace {

namespace fs = std::filesystem;

void add_from_environment(std::vector<fs::path>& places) {
    // secure_getenv: where the program has more rights than its user, the user does not choose what it loads.
    const char* value = ::secure_getenv(path_variable);
    std::string_view rest = value != nullptr ? value : "";
    while (!rest.empty()) {
        const std::string_view one = rest.substr(0, rest.find(':'));
        if (!one.empty()) { // not the current directory
            places.emplace_back(one);
        }
        rest.remove_prefix(std::min(rest.size(), one.size() + 1));
    }
}

} // namespace

std::vector<fs::path> search_path(std::span<const fs::path> first) {
    std::vector<fs::path> places{first.begin(), first.end()};
    add_from_environment(places);
    std::error_code failed;
    if (const fs::path program = fs::read_symlink("/proc/self/exe", failed); !failed) {
        const fs::path folder = program.parent_path();
        // The mover is one deeper than the command: PREFIX/libexec/pageferry, and PREFIX/bin.
        const fs::path prefix = folder / (folder.filename() == "pageferry" ? "../.." : "..");
        places.push_back((prefix / PAGEFERRY_RELATIVE_LIBDIR / "pageferry").lexically_normal());
        places.push_back((prefix / "lib/pageferry").lexically_normal());
        places.push_back(folder);
    }
    places.emplace_back(PAGEFERRY_PLUGIN_DIR);
    std::vector<fs::path> once;
    for (fs::path& place : places) {
        if (std::ranges::find(once, place) == once.end()) {
            once.push_back(std::move(place));
        }
    }
    return once;
}

std::filesystem::path plugin_file(const std::string& scheme) {
    return "pageferry-transport-" + scheme + ".so";
}

std::optional<std::filesystem::path> find_plugin(const std::string& scheme, std::span<const std::filesystem::path> first) {
    // A scheme comes from a user's URI: nothing that could lead out of the directories.
    if (scheme_of(scheme + ":") != scheme) {
        return std::nullopt;
    }
    for (const fs::path& place : search_path(first)) {
        std::error_code failed;
        if (fs::path file = place / plugin_file(scheme); fs::is_regular_file(file, failed)) {
            return file;
        }
    }
    return std::nullopt;
}

std::vector<FoundPlugin> find_plugins(std::span<const std::filesystem::path> first) {
    const std::string begin = "pageferry-transport-";
    const std::string end = ".so";
    std::map<std::string, fs::path> found;
    for (const fs::path& place : search_path(first)) {
        std::error_code failed;
        for (fs::directory_iterator entry{place, failed}; !failed && entry != fs::directory_iterator{}; entry.increment(failed)) {
            const std::string name = entry->path().filename();
            if (name.size() <= begin.size() + end.size() || !name.starts_with(begin) || !name.ends_with(end)) {
                continue;
            }
            const std::string scheme = name.substr(begin.size(), name.size() - begin.size() - end.size());
            std::error_code no_file;
            if (scheme_of(scheme + ":") == scheme && fs::is_regular_file(entry->path(), no_file)) {
                found.try_emplace(scheme, entry->path());
            }
        }
    }
    std::vector<FoundPlugin> all;
    for (auto& [scheme, file] : found) {
        all.push_back(FoundPlugin{.scheme = scheme, .file = std::move(file)});
    }
    return all;
}

bool installed(const std::string& scheme, std::span<const std::filesystem::path> first) {
    return find_plugin(scheme, first).has_value();
}

} // namespace pageferry::transport
