#include "hypervisor/qemu/launcher_settings.h"

#include "base/fd.h"
#include "hypervisor/qemu/text.h"

#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

namespace pageferry::hypervisor {

namespace {

using nlohmann::json;

constexpr const char* members = R"("emulators", "log" and "parameters")";

Error refuse(const std::string& file, std::string reason, std::string remedy) {
    return make_error(ErrorCode::invalid_argument, "read the settings", file, std::move(reason), std::move(remedy));
}

Error wrong_type(const std::string& file, const std::string& member, const char* expected) {
    return refuse(file, join("\"", member, "\" has to be ", expected), "correct it, or leave it out");
}

Result<void> read_emulators(const json& value, LauncherSettings& settings) {
    if (!value.is_object()) {
        return std::unexpected(wrong_type(settings.file, "emulators", "an object: a QEMU for each name"));
    }
    for (const auto& [name, program] : value.items()) {
        if (name.empty() || name.find('/') != std::string::npos) {
            return std::unexpected(refuse(settings.file, join("\"", name, R"(" in "emulators" is no name of a program)"),
                                          "give the name alone, without a folder"));
        }
        if (!program.is_string() || program.get_ref<const std::string&>().empty()) {
            return std::unexpected(wrong_type(settings.file, "emulators." + name, "a string: QEMU's path, or its name in PATH"));
        }
        settings.emulators.emplace(name, program.get<std::string>());
    }
    return {};
}

Result<std::string> read_file(const std::string& file) {
    const Fd opened{::open(file.c_str(), O_RDONLY | O_CLOEXEC)};
    if (!opened) {
        return std::unexpected(errno_error(errno, "open", file, "QEMU's user has to be able to read the settings"));
    }
    std::string text;
    std::array<char, 4096> buffer{};
    for (;;) {
        const ssize_t got = ::read(opened.get(), buffer.data(), buffer.size());
        if (got == 0) {
            return text;
        }
        if (got > 0) {
            text.append(buffer.data(), static_cast<std::size_t>(got));
        } else if (errno != EINTR) {
            return std::unexpected(errno_error(errno, "read", file));
        }
    }
}

} // namespace

Result<LauncherSettings> LauncherSettings::parse(std::string_view text, std::string file) {
    LauncherSettings settings{.file = std::move(file), .emulators = {}, .log = {}, .parameters = {}};
    json all;
    try {
        all = json::parse(text, nullptr, true, true); // with comments
    } catch (const json::exception& error) {
        return std::unexpected(refuse(settings.file, error.what(), "correct the JSON"));
    }
    if (!all.is_object()) {
        return std::unexpected(refuse(settings.file, "it is not a JSON object", join("write {...} with ", members)));
    }
    for (const auto& [name, value] : all.items()) {
        if (name == "emulators") {
            if (auto read = read_emulators(value, settings); !read) {
                return std::unexpected(read.error());
            }
        } else if (name == "log") {
            if (!value.is_string() || value.get_ref<const std::string&>().empty()) {
                return std::unexpected(wrong_type(settings.file, name, R"("stderr", "none" or a file)"));
            }
            settings.log = value.get<std::string>();
        } else if (name == "parameters") {
            if (!value.is_object()) {
                return std::unexpected(wrong_type(settings.file, name, "an object, as of migrate-set-parameters"));
            }
            settings.parameters = value.dump();
        } else {
            return std::unexpected(
                refuse(settings.file, join("there is no setting \"", name, "\""), join("the settings are ", members)));
        }
    }
    return settings;
}

Result<LauncherSettings> LauncherSettings::load() {
    const char* given = std::getenv("PAGEFERRY_CONFIG");
    std::string file = given != nullptr && *given != '\0' ? given : PAGEFERRY_SYSCONFDIR "/pageferry/qemu.json";
    auto text = read_file(file);
    if (!text) {
        const bool absent = text.error().native == ENOENT || text.error().native == ENOTDIR;
        return absent ? Result<LauncherSettings>{} : std::unexpected(text.error());
    }
    return parse(*text, std::move(file));
}

} // namespace pageferry::hypervisor
