#include "hypervisor/qemu/program_files.h"

#include "hypervisor/qemu/text.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <vector>

namespace pageferry::hypervisor {

namespace {

namespace fs = std::filesystem;

Result<std::string> find_piece(const char* name, const std::vector<fs::path>& below) {
    std::vector<fs::path> places;
    if (const char* given = std::getenv("PAGEFERRY_LIBEXEC"); given != nullptr && *given != '\0') {
        places.emplace_back(given);
    }
    std::error_code error;
    if (const fs::path self = fs::read_symlink("/proc/self/exe", error); !error) {
        places.push_back(self.parent_path());
        for (const fs::path& folder : below) {
            places.push_back((self.parent_path() / folder).lexically_normal());
        }
    }
    std::string looked;
    for (const fs::path& place : places) {
        fs::path file = place / name;
        if (fs::is_regular_file(file, error)) {
            return fs::absolute(file, error).string();
        }
        looked += join(looked.empty() ? "" : ", ", place.string());
    }
    return std::unexpected(make_error(ErrorCode::not_found, "find", name, "it is not in " + looked,
                                      "install Pageferry completely, or set PAGEFERRY_LIBEXEC to the directory that has it"));
}

} // namespace

Result<std::string> find_program(const std::string& name, std::span<const std::string_view> also) {
    if (name.find('/') != std::string::npos) {
        return ::access(name.c_str(), X_OK) == 0 ? Result<std::string>{name}
                                                 : std::unexpected(errno_error(errno, "execute", name));
    }
    const char* variable = std::getenv("PATH");
    std::string path = variable != nullptr ? variable : "/bin:/usr/bin";
    for (const std::string_view folder : also) {
        path += join(":", folder);
    }
    int worst = ENOENT;
    for (std::size_t at = 0; at <= path.size();) {
        const std::size_t end = std::min(path.find(':', at), path.size());
        const std::string folder = path.substr(at, end - at);
        std::string file = (folder.empty() ? "." : folder) + "/" + name;
        std::error_code error;
        if (fs::is_regular_file(file, error)) {
            if (::access(file.c_str(), X_OK) == 0) {
                return file;
            }
            worst = errno;
        }
        at = end + 1;
    }
    return std::unexpected(errno_error(worst, "execute", name, "is QEMU installed, and in PATH?"));
}

Result<std::string> find_monitor_program() {
    return find_piece("pageferry-monitor", {"../libexec/pageferry"});
}

Result<std::string> find_agent() {
    auto file = find_piece("libpageferry-agent.so", {"../" PAGEFERRY_LIBDIR "/pageferry", "../lib/pageferry"});
    if (file && file->find_first_of(": ") != std::string::npos) {
        return std::unexpected(make_error(ErrorCode::unsupported, "preload", *file,
                                          "LD_PRELOAD takes no path with a space or a colon in it", "move Pageferry elsewhere"));
    }
    return file;
}

} // namespace pageferry::hypervisor
