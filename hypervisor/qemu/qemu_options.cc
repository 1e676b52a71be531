#include "hypervisor/qemu/qemu_options.h"

#include "hypervisor/qemu/text.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

namespace pageferry::hypervisor {

namespace {

// Options without a value, of all QEMU versions since 5.0.
constexpr auto without_value = std::to_array<std::string_view>({
    "h",
    "help",
    "version",
    "S",
    "s",
    "snapshot",
    "no-fd-bootchk",
    "no-acpi",
    "no-hpet",
    "no-reboot",
    "no-shutdown",
    "nographic",
    "nodefaults",
    "nodefconfig",
    "no-user-config",
    "no-quit",
    "no-frame",
    "no-kvm",
    "no-kvm-irqchip",
    "no-kvm-pit",
    "no-kvm-pit-reinjection",
    "no-kvm-pit-reinject",
    "full-screen",
    "alt-grab",
    "ctrl-grab",
    "sdl",
    "curses",
    "enable-kvm",
    "enable-fips",
    "enable-hax",
    "daemonize",
    "portrait",
    "win2k-hack",
    "usb",
    "mem-prealloc",
    "singlestep",
    "one-insn-per-tb",
    "xen-attach",
    "xen-create",
    "xen-domid-restrict",
    "preconfig",
    "skip-cursor",
    "show-cursor",
    "semihosting",
    "old-param",
    "enable-sync-profile",
    "only-migratable",
    "perfmap",
    "jitdump",
    "async-teardown",
    "audio-help",
    "tdf",
    "localtime",
    "mem-merge",
    "rtc-td-hack",
});

std::string next_part(std::string_view text, std::size_t& at) {
    std::string part;
    for (; at < text.size(); ++at) {
        if (text[at] == ',') {
            if (at + 1 >= text.size() || text[at + 1] != ',') {
                break;
            }
            ++at; // a doubled comma is one
        }
        part += text[at];
    }
    ++at; // the comma
    return part;
}

void flatten(const nlohmann::json& value, const std::string& key, std::vector<std::pair<std::string, std::string>>& list) {
    if (value.is_object()) {
        for (const auto& [name, member] : value.items()) {
            flatten(member, key.empty() ? name : join(key, ".", name), list);
        }
    } else if (value.is_array()) {
        for (std::size_t i = 0; i < value.size(); ++i) {
            flatten(value[i], join(key, ".", i), list);
        }
    } else if (value.is_string()) {
        list.emplace_back(key, value.get<std::string>());
    } else if (value.is_boolean()) {
        list.emplace_back(key, value.get<bool>() ? "on" : "off");
    } else {
        list.emplace_back(key, value.dump());
    }
}

} // namespace

std::vector<Option> split_options(std::span<const std::string> words) {
    std::vector<Option> options;
    for (std::size_t i = 0; i < words.size(); ++i) {
        Option option{.name = {}, .given = words[i], .value = {}, .has_value = false};
        if (words[i].starts_with('-') && words[i].size() > 1) {
            option.name = words[i].substr(words[i].starts_with("--") ? 2 : 1);
            const bool takes = std::ranges::find(without_value, option.name) == without_value.end();
            if (takes && i + 1 < words.size()) {
                option.value = words[++i];
                option.has_value = true;
            }
        }
        options.push_back(std::move(option));
    }
    return options;
}

std::string to_text(const Option& option) {
    return option.has_value ? option.given + " " + option.value : option.given;
}

Result<Properties> Properties::parse(std::string_view text, std::string_view implied_key) {
    Properties result;
    if (text.starts_with('{')) {
        const auto json = nlohmann::json::parse(text, nullptr, false);
        if (json.is_discarded() || !json.is_object()) {
            return std::unexpected(make_error(ErrorCode::invalid_argument, "read", std::string{text}, "this is not a JSON object",
                                              "check the quotes and braces"));
        }
        flatten(json, {}, result.list_);
        return result;
    }
    bool first = true;
    for (std::size_t at = 0; at < text.size(); first = false) {
        const std::string part = next_part(text, at);
        const auto equals = part.find('=');
        if (equals != std::string::npos) {
            result.list_.emplace_back(part.substr(0, equals), part.substr(equals + 1));
        } else if (first && !implied_key.empty()) {
            result.list_.emplace_back(implied_key, part);
        } else if (part.starts_with("no") && part != "nodelay" && part.size() > 2) {
            result.list_.emplace_back(part.substr(2), "off");
        } else if (!part.empty()) {
            result.list_.emplace_back(part, "on");
        }
    }
    return result;
}

std::optional<std::string> Properties::get(std::string_view key) const {
    const auto found = std::ranges::find(list_.rbegin(), list_.rend(), key, &std::pair<std::string, std::string>::first);
    return found == list_.rend() ? std::nullopt : std::optional{found->second};
}

std::string Properties::get_or(std::string_view key, std::string_view otherwise) const {
    return get(key).value_or(std::string{otherwise});
}

bool Properties::flag(std::string_view key, bool otherwise) const {
    const auto value = get(key);
    return value ? parse_switch(*value).value_or(otherwise) : otherwise;
}

void Properties::set(std::string_view key, std::string_view value) {
    const auto found = std::ranges::find(list_, key, &std::pair<std::string, std::string>::first);
    if (found == list_.end()) {
        list_.emplace_back(key, value);
        return;
    }
    found->second = value;
    const auto rest = std::remove_if(found + 1, list_.end(), [&](const auto& entry) { return entry.first == key; });
    list_.erase(rest, list_.end());
}

void Properties::erase(std::string_view key) {
    std::erase_if(list_, [&](const auto& entry) { return entry.first == key; });
}

std::string Properties::to_string(std::string_view implied_key) const {
    std::string text;
    if (const auto first = get(implied_key); first && !implied_key.empty()) {
        text = escape_commas(*first);
    }
    for (const auto& [key, value] : list_) {
        if (key == implied_key) {
            continue;
        }
        text += (text.empty() ? "" : ",") + key + "=" + escape_commas(value);
    }
    return text;
}

std::string escape_commas(std::string_view value) {
    std::string text;
    for (const char c : value) {
        text += c;
        if (c == ',') {
            text += c;
        }
    }
    return text;
}

std::optional<bool> parse_switch(std::string_view text) {
    if (text == "on" || text == "yes" || text == "true" || text == "y") {
        return true;
    }
    if (text == "off" || text == "no" || text == "false" || text == "n") {
        return false;
    }
    return std::nullopt;
}

std::optional<std::uint64_t> parse_size(std::string_view text, std::uint64_t unit) {
    const char* const begin = text.data(); // NOLINT(bugprone-suspicious-stringview-data-usage): always used with end
    const char* const end = begin + text.size();
    if (text.starts_with("0x") || text.starts_with("0X")) {
        std::uint64_t bytes = 0;
        const auto [rest, error] = std::from_chars(begin + 2, end, bytes, 16);
        const bool fits = unit == 1 || bytes <= UINT64_MAX / unit;
        return error == std::errc{} && rest == end && fits ? std::optional{bytes * unit} : std::nullopt;
    }
    std::uint64_t whole = 0;
    auto [rest, error] = std::from_chars(begin, end, whole);
    if (error != std::errc{}) {
        return std::nullopt;
    }
    double fraction = 0;
    if (rest != end && *rest == '.') {
        double scale = 1;
        for (++rest; rest != end && *rest >= '0' && *rest <= '9'; ++rest) {
            scale /= 10;
            fraction += (*rest - '0') * scale;
        }
    }
    if (rest != end) {
        constexpr std::string_view suffixes = "BKMGTPE";
        const auto power = suffixes.find(static_cast<char>(*rest & ~0x20)); // upper case
        if (power == std::string_view::npos || rest + 1 != end) {
            return std::nullopt;
        }
        unit = std::uint64_t{1} << (10 * power);
    }
    if (whole > UINT64_MAX / unit) {
        return std::nullopt;
    }
    const auto part = static_cast<std::uint64_t>(std::llround(fraction * static_cast<double>(unit)));
    const std::uint64_t bytes = whole * unit;
    return part > UINT64_MAX - bytes ? std::nullopt : std::optional{bytes + part};
}

} // namespace pageferry::hypervisor
