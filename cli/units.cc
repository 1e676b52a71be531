#include "cli/units.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <ctime>

namespace pageferry::cli {

namespace {

template <class... Arguments>
std::string print(const char* format, Arguments... arguments) {
    std::array<char, 96> text{};
    // The formats are this file's own literals; snprintf cuts, never overruns.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-security"
    std::snprintf(text.data(), text.size(), format, arguments...);
#pragma GCC diagnostic pop
    return text.data();
}

std::tm broken_down(std::chrono::microseconds since_1970, bool utc) {
    const std::time_t seconds = std::chrono::floor<std::chrono::seconds>(since_1970).count();
    std::tm parts{};
    if (utc) {
        ::gmtime_r(&seconds, &parts);
    } else {
        ::localtime_r(&seconds, &parts);
    }
    return parts;
}

} // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
    const auto bad = [&] {
        return std::unexpected(make_error(ErrorCode::invalid_argument, "read size", std::string{text}, "This is no size in bytes",
                                          "write a number with K, M, G or T behind it, such as 512M or 1.5G"));
    };
    double number = 0;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
    if (problem != std::errc{} || number < 0 || !std::isfinite(number)) {
        return bad();
    }
    std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
    if (unit.ends_with("/s")) {
        unit.remove_suffix(2);
    }
    int power = 0;
    if (!unit.empty()) {
        constexpr std::string_view prefixes = "BKMGT";
        const char first = static_cast<char>(unit[0] >= 'a' && unit[0] <= 'z' ? unit[0] - 'a' + 'A' : unit[0]);
        const std::size_t place = prefixes.find(first);
        const std::string_view rest = unit.substr(1);
        const bool known_rest = rest.empty() || (place > 0 && (rest == "iB" || rest == "B" || rest == "i"));
        if (place == std::string_view::npos || !known_rest) {
            return bad();
        }
        power = static_cast<int>(place);
    }
    // Whole numbers do not go through double: 2^53 and above would change.
    std::uint64_t whole = 0;
    const auto [whole_end, whole_problem] = std::from_chars(text.data(), text.data() + text.size(), whole);
    const std::uint64_t largest = UINT64_MAX >> 1;
    if (whole_end == end) {
        if (whole_problem != std::errc{} || whole > (largest >> (10 * power))) {
            return bad();
        }
        return whole << (10 * power);
    }
    const double bytes = std::ldexp(number, 10 * power);
    if (bytes >= std::ldexp(1.0, 63)) {
        return bad();
    }
    return static_cast<std::uint64_t>(std::llround(bytes));
}

std::string format_size(std::uint64_t bytes) {
    constexpr std::array<const char*, 7> units{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    auto value = static_cast<double>(bytes);
    std::size_t unit = 0;
    while (value >= 999.5 && unit + 1 < units.size() && (unit > 0 || bytes >= 1024)) {
        value /= 1024;
        ++unit;
    }
    if (unit == 0) {
        return print("%.0f B", value);
    }
    return print(value < 9.995 ? "%.2f %s" : value < 99.95 ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

std::string format_rate(double bytes_per_second) {
    return format_size(bytes_per_second > 0 ? static_cast<std::uint64_t>(std::llround(std::min(bytes_per_second, 9e18))) : 0) +
           "/s";
}

std::string format_duration(std::chrono::milliseconds time) {
    const long long ms = time.count();
    if (ms < 1000) {
        return print("%lld ms", ms);
    }
    if (ms < 9'950) {
        return print("%.1f s", static_cast<double>(ms) / 1000);
    }
    const long long seconds = (ms + 500) / 1000;
    if (seconds < 60) {
        return print("%lld s", seconds);
    }
    if (seconds < 3600) {
        return print("%lld m %02lld s", seconds / 60, seconds % 60);
    }
    return print("%lld h %02lld m", seconds / 3600, seconds % 3600 / 60);
}

std::string format_latency(std::chrono::microseconds time) {
    auto value = static_cast<double>(time.count());
    if (value < 999.5) {
        return print("%.0f us", value);
    }
    value /= 1000;
    const char* unit = "ms";
    if (value >= 999.5) {
        value /= 1000;
        unit = "s";
    }
    return print(value < 9.995 ? "%.2f %s" : value < 99.95 ? "%.1f %s" : "%.0f %s", value, unit);
}

std::string format_clock(std::chrono::microseconds since_1970) {
    const std::tm parts = broken_down(since_1970, false);
    const auto rest = (since_1970 - std::chrono::floor<std::chrono::seconds>(since_1970)).count() / 1000;
    return print("%02d:%02d:%02d.%03lld", parts.tm_hour, parts.tm_min, parts.tm_sec, static_cast<long long>(rest));
}

std::string format_timestamp(std::chrono::microseconds since_1970) {
    const std::tm parts = broken_down(since_1970, true);
    const auto rest = (since_1970 - std::chrono::floor<std::chrono::seconds>(since_1970)).count();
    return print("%04d-%02d-%02dT%02d:%02d:%02d.%06lldZ", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour,
                 parts.tm_min, parts.tm_sec, static_cast<long long>(rest));
}

} // namespace pageferry::cli
