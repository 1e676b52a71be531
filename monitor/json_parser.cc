// QEMU's JSON dialect and its words for what is wrong (its qobject/json-parser.c). A library parser would not do: it accepts keys
// that are there twice, knows no single quotes, and says other things; and a message that we read in one way and QEMU in another
// could slip a migration command past us.
#include "monitor/qmp_message.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <utility>

namespace pageferry::monitor {

namespace {

using nlohmann::json;

constexpr int max_depth = 1100; // JsonStream ends a message before this; a parser that recurses still says so itself

bool is_number_byte(char c) {
    return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
}

// The length of the well-formed UTF-8 sequence that text begins with, 0 if there is none.
std::size_t utf8_length(std::string_view text) {
    const auto at = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
    const unsigned first = at(0);
    if (first < 0x80) {
        return 1;
    }
    const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4) {
        return 0;
    }
    std::uint32_t code = first & (0xffU >> (length + 1));
    for (std::size_t i = 1; i < length; ++i) {
        if ((at(i) & 0xc0U) != 0x80) {
            return 0;
        }
        code = code << 6U | (at(i) & 0x3fU);
    }
    constexpr std::array<std::uint32_t, 5> least{0, 0, 0x80, 0x800, 0x10000};
    return code < least.at(length) || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? 0 : length;
}

void append_utf8(std::string& out, std::uint32_t code) {
    const auto put = [&](std::uint32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (code < 0x80) {
        put(code);
    } else if (code < 0x800) {
        put(0xc0U | code >> 6U);
        put(0x80U | (code & 0x3fU));
    } else if (code < 0x10000) {
        put(0xe0U | code >> 12U);
        put(0x80U | (code >> 6U & 0x3fU));
        put(0x80U | (code & 0x3fU));
    } else {
        put(0xf0U | code >> 18U);
        put(0x80U | (code >> 12U & 0x3fU));
        put(0x80U | (code >> 6U & 0x3fU));
        put(0x80U | (code & 0x3fU));
    }
}

class Parser {
public:
    explicit Parser(std::string_view text) : rest_(text) {}

    std::expected<json, std::string> run() {
        json result;
        if (!value(result, 0)) {
            return std::unexpected{"JSON parse error, " + error_};
        }
        return result;
    }

private:
    // QEMU keeps the first error.
    bool fail(std::string error) {
        if (error_.empty()) {
            error_ = std::move(error);
        }
        return false;
    }

    char peek() { // the next token's first byte, 0 at the end
        const std::size_t begin = rest_.find_first_not_of(" \t\r\n");
        rest_.remove_prefix(begin == std::string_view::npos ? rest_.size() : begin);
        return rest_.empty() ? '\0' : rest_.front();
    }
    bool accept(char byte) {
        if (peek() != byte) {
            return false;
        }
        rest_.remove_prefix(1);
        return true;
    }

    bool value(json& out, int depth) {
        if (depth > max_depth) {
            return fail("nesting too deep");
        }
        const char first = peek();
        switch (first) {
        case '\0': return fail("premature EOI");
        case '{': return object(out, depth);
        case '[': return array(out, depth);
        case '"':
        case '\'': return string(out);
        default: break;
        }
        if (first >= 'a' && first <= 'z') {
            return keyword(out);
        }
        return first == '-' || (first >= '0' && first <= '9') ? number(out) : fail("expecting value");
    }

    bool keyword(json& out) {
        std::size_t length = 0;
        while (length < rest_.size() && rest_[length] >= 'a' && rest_[length] <= 'z') {
            ++length;
        }
        const std::string_view word = rest_.substr(0, length);
        rest_.remove_prefix(length);
        if (word == "true" || word == "false") {
            out = word == "true";
        } else if (word == "null") {
            out = nullptr;
        } else {
            return fail("invalid keyword '" + std::string{word} + "'");
        }
        return true;
    }

    bool number(json& out) {
        std::size_t length = 0;
        while (length < rest_.size() && is_number_byte(rest_[length])) {
            ++length;
        }
        const std::string text{rest_.substr(0, length)};
        rest_.remove_prefix(length);
        const char* const end = text.data() + text.size();
        std::int64_t small = 0;
        if (const auto [stop, error] = std::from_chars(text.data(), end, small); error == std::errc{} && stop == end) {
            out = small;
            return true;
        }
        std::uint64_t large = 0;
        if (const auto [stop, error] = std::from_chars(text.data(), end, large); error == std::errc{} && stop == end) {
            out = large;
            return true;
        }
        const double real = std::strtod(text.c_str(), nullptr);
        if (!std::isfinite(real)) {
            return fail("number '" + text + "' is too large"); // QEMU takes it, and answers with an id that is no JSON
        }
        out = real;
        return true;
    }

    bool hex4(std::uint32_t& code) {
        if (rest_.size() < 4) {
            return false;
        }
        const char* const begin = rest_.data();
        const auto [stop, error] = std::from_chars(begin, begin + 4, code, 16);
        return error == std::errc{} && stop == begin + 4;
    }

    bool unicode_escape(std::string& out) {
        const std::string shown{rest_.substr(0, 4)};
        std::uint32_t code = 0;
        const bool leads = hex4(code) && code >= 0xd800 && code < 0xdc00;
        bool good = hex4(code) && (code < 0xd800 || code >= 0xe000);
        rest_.remove_prefix(std::min<std::size_t>(rest_.size(), 4));
        if (leads && rest_.starts_with("\\u")) {
            rest_.remove_prefix(2);
            std::uint32_t trail = 0;
            good = hex4(trail) && trail >= 0xdc00 && trail < 0xe000;
            rest_.remove_prefix(good ? 4 : 0);
            code = 0x10000 + ((code & 0x3ffU) << 10U | (trail & 0x3ffU));
        }
        if (!good) {
            return fail("\\u" + shown + " is not a valid Unicode character");
        }
        append_utf8(out, code);
        return true;
    }

    bool escape(std::string& out) {
        const char byte = rest_.empty() ? '\0' : rest_.front();
        rest_.remove_prefix(rest_.empty() ? 0 : 1);
        switch (byte) {
        case '"':
        case '\'':
        case '\\':
        case '/': out += byte; return true;
        case 'b': out += '\b'; return true;
        case 'f': out += '\f'; return true;
        case 'n': out += '\n'; return true;
        case 'r': out += '\r'; return true;
        case 't': out += '\t'; return true;
        case 'u': return unicode_escape(out);
        default: return fail("invalid escape sequence in string");
        }
    }

    bool string(json& out) {
        const char quote = rest_.front();
        rest_.remove_prefix(1);
        std::string text;
        while (!rest_.empty() && rest_.front() != quote) {
            if (rest_.front() == '\\') {
                rest_.remove_prefix(1);
                if (!escape(text)) {
                    return false;
                }
                continue;
            }
            const std::size_t length = utf8_length(rest_);
            if (length == 0) {
                return fail("invalid UTF-8 sequence in string");
            }
            text += rest_.substr(0, length);
            rest_.remove_prefix(length);
        }
        if (rest_.empty()) {
            return fail("premature EOI");
        }
        rest_.remove_prefix(1);
        out = std::move(text);
        return true;
    }

    bool pair(json& out, int depth) {
        json key;
        if (!value(key, depth + 1)) {
            return false;
        }
        if (!key.is_string()) {
            return fail("key is not a string in object");
        }
        if (peek() == '\0') {
            return fail("premature EOI");
        }
        if (!accept(':')) {
            return fail("missing : in object pair");
        }
        json member;
        if (!value(member, depth + 1)) {
            return false;
        }
        const auto& name = key.get_ref<const std::string&>();
        if (out.contains(name)) {
            return fail("duplicate key");
        }
        out[name] = std::move(member);
        return true;
    }

    bool object(json& out, int depth) {
        rest_.remove_prefix(1);
        out = json::object();
        if (accept('}')) {
            return true;
        }
        do {
            if (!pair(out, depth)) {
                return false;
            }
            if (accept('}')) {
                return true;
            }
        } while (accept(','));
        return fail(peek() == '\0' ? "premature EOI" : "expected separator in dict");
    }

    bool array(json& out, int depth) {
        rest_.remove_prefix(1);
        out = json::array();
        if (accept(']')) {
            return true;
        }
        do {
            json element;
            if (!value(element, depth + 1)) {
                return false;
            }
            out.push_back(std::move(element));
            if (accept(']')) {
                return true;
            }
        } while (accept(','));
        return fail(peek() == '\0' ? "premature EOI" : "expected separator in list");
    }

    std::string_view rest_;
    std::string error_;
};

} // namespace

std::expected<nlohmann::json, std::string> parse_request(std::string_view text) {
    return Parser{text}.run();
}

} // namespace pageferry::monitor
