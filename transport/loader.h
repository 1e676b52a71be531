// Finds and loads transport plugins by URI scheme.
//
// A plugin for scheme S is the file pageferry-transport-S.so in the first directory that has one: the directories given by the
// caller (an option), then those of the environment variable PAGEFERRY_TRANSPORT_PATH (colon-separated), then the directories
// next to the program (../lib/pageferry, and the program's own: a build tree), then the installation's. The variable is ignored
// in a program with more rights than its user (set-user-id).
//
// Threads: any; loading the same plugin twice gives the same one.
#pragma once

#include "base/error.h"
#include "transport/connection.h"

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::transport {

inline constexpr const char* path_variable = "PAGEFERRY_TRANSPORT_PATH";

// Every directory that is searched, in order.
std::vector<std::filesystem::path> search_path(std::span<const std::filesystem::path> first = {});

// not_found: no such file, and every place looked at; unsupported/version: it is there but does not load, and why (dlopen's
// words, missing symbol, ABI version, size too small, scheme not served).
Result<Transport> load(const std::string& scheme, std::span<const std::filesystem::path> first = {});

// What to install where dlopen said this of a plugin: the packages of a library that is missing; empty where nothing can be said.
std::string remedy_for(std::string_view dlopen_words);

// The file of the plugin for this scheme, if there is one; a scheme that is none (see scheme_of) never has one.
std::optional<std::filesystem::path> find_plugin(const std::string& scheme, std::span<const std::filesystem::path> first = {});
std::filesystem::path plugin_file(const std::string& scheme); // "pageferry-transport-tcp.so"

// Every plugin that find_plugin() could find, in the order of their schemes, of each scheme the file that would be taken.
struct FoundPlugin {
    std::string scheme;
    std::filesystem::path file;
};
std::vector<FoundPlugin> find_plugins(std::span<const std::filesystem::path> first = {});

// Whether a plugin file for this scheme exists, without loading it: what the monitor process asks, which never loads one. This,
// search_path(), find_plugin() and find_plugins() are in the library pageferry_transport_search, which has no dlopen in it.
bool installed(const std::string& scheme, std::span<const std::filesystem::path> first = {});

} // namespace pageferry::transport
