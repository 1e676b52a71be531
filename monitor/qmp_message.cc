#include "monitor/qmp_message.h"

#include <nlohmann/json.hpp>

#include <chrono>
#include <cmath>

namespace pageferry::monitor {

namespace {

using nlohmann::json;

constexpr std::string_view space = " \t\r\n";

bool is_space(char c) {
    return space.find(c) != std::string_view::npos;
}

std::string_view trimmed(std::string_view text) {
    const std::size_t first = text.find_first_not_of(space);
    return first == std::string_view::npos ? std::string_view{} : text.substr(first, text.find_last_not_of(space) + 1 - first);
}

// Where the string that begins there has its closing quote; the text's end if it has none.
std::size_t string_end(std::string_view text, std::size_t begin) {
    std::size_t i = begin + 1;
    while (i < text.size() && text[i] != text[begin]) {
        i += text[i] == '\\' ? 2 : 1;
    }
    return i;
}

void append_indent(std::string& out, bool pretty, std::size_t depth) {
    if (pretty) {
        out += '\n';
        out.append(depth * 4, ' ');
    }
}

void append(std::string& out, const json& value, bool pretty, std::size_t depth) {
    if (value.is_structured()) {
        out += value.is_object() ? '{' : '[';
        bool first = true;
        for (const auto& [key, member] : value.items()) {
            if (!first) {
                out += pretty ? "," : ", ";
            }
            first = false;
            append_indent(out, pretty, depth + 1);
            if (value.is_object()) {
                append(out, json(key), pretty, depth);
                out += ": ";
            }
            append(out, member, pretty, depth + 1);
        }
        append_indent(out, pretty, depth);
        out += value.is_object() ? '}' : ']';
        return;
    }
    out += value.dump(-1, ' ', true, json::error_handler_t::replace);
}

} // namespace

QmpError qmp_error(const Error& error) {
    return {.desc = error.operation.empty() && error.object.empty() ? error.reason : error.to_string()};
}

std::optional<nlohmann::json> parse_json(std::string_view text) {
    json value = json::parse(text, nullptr, false);
    if (value.is_discarded()) {
        return std::nullopt;
    }
    return value;
}

std::optional<std::vector<std::pair<std::string_view, std::string_view>>> members_of(std::string_view text) {
    std::vector<std::pair<std::string_view, std::string_view>> members;
    int depth = 0;
    std::size_t begin = 0; // of the key or value under way
    std::string_view key;
    const auto end_member = [&](std::size_t end) {
        if (!key.empty()) {
            members.emplace_back(key, trimmed(text.substr(begin, end - begin)));
        }
        key = {};
        begin = end + 1;
    };
    for (std::size_t i = 0; i < text.size(); ++i) {
        switch (text[i]) {
        case '"': i = string_end(text, i); break;
        case '{':
        case '[':
            if (depth++ == 0) {
                if (text[i] != '{') {
                    return std::nullopt;
                }
                begin = i + 1;
            }
            break;
        case '}':
        case ']':
            if (--depth == 0) {
                end_member(i);
            }
            break;
        case ':':
            if (depth == 1) {
                key = trimmed(text.substr(begin, i - begin));
                begin = i + 1;
            }
            break;
        case ',':
            if (depth == 1) {
                end_member(i);
            }
            break;
        default: break;
        }
    }
    return depth == 0 && !text.empty() && text.front() == '{' ? std::optional{std::move(members)} : std::nullopt;
}

std::string without_space(std::string_view text) {
    std::string out;
    out.reserve(text.size() + 1);
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '"' || text[i] == '\'') {
            const std::size_t end = string_end(text, i);
            out += text.substr(i, end + 1 - i);
            i = end;
        } else if (!is_space(text[i])) {
            out += text[i];
        }
    }
    if (out.empty() || (out.back() != '}' && out.back() != ']')) {
        out += '\n'; // a number's end, say
    }
    return out;
}

std::string to_text(const nlohmann::json& value, bool pretty) {
    std::string out;
    append(out, value, pretty, 0);
    return out;
}

std::string answer_line(const QmpResult& result, const nlohmann::json* id, bool pretty) {
    json answer = json::object();
    if (result) {
        answer["return"] = *result;
    } else {
        answer["error"] = {{"class", result.error().error_class}, {"desc", result.error().desc}};
    }
    if (id != nullptr) {
        answer["id"] = *id;
    }
    return to_text(answer, pretty) + "\r\n";
}

std::string event_line(std::string_view name, const nlohmann::json& data, bool pretty) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now);
    const auto rest = std::chrono::duration_cast<std::chrono::microseconds>(now - seconds);
    json event = {{"timestamp", {{"seconds", seconds.count()}, {"microseconds", rest.count()}}}, {"event", name}};
    if (!data.is_null()) {
        event["data"] = data;
    }
    return to_text(event, pretty) + "\r\n";
}

} // namespace pageferry::monitor
