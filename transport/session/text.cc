#include "transport/session/text.h"

#include <cstdint>

namespace pageferry::transport::session {

namespace {

// Bytes of the character at the start of text, 0 when it is not a whole one of valid UTF-8 or is a control character.
std::size_t clean_character(std::string_view text, bool several_lines) {
    const auto byte_at = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
    const std::uint8_t first = byte_at(0);
    if (first < 0x80) {
        const bool allowed = (first >= 0x20 && first != 0x7f) || (several_lines && (first == '\n' || first == '\t'));
        return allowed ? 1 : 0;
    }
    const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc2 ? 2 : 0;
    if (length == 0 || text.size() < length) {
        return 0;
    }
    std::uint32_t code = first & (0x7fU >> length);
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte_at(i) & 0xc0U) != 0x80) {
            return 0;
        }
        code = (code << 6U) | (byte_at(i) & 0x3fU);
    }
    const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
    const bool surrogate = code >= 0xd800 && code <= 0xdfff;
    const bool control = code < 0xa0; // C1: some terminals obey them
    return overlong || surrogate || control || code > 0x10ffff ? 0 : length;
}

} // namespace

bool is_clean(std::string_view text, bool several_lines) {
    while (!text.empty()) {
        const std::size_t length = clean_character(text, several_lines);
        if (length == 0) {
            return false;
        }
        text.remove_prefix(length);
    }
    return true;
}

std::string cleaned(std::string_view text, std::size_t max) {
    std::string out;
    while (!text.empty()) {
        const std::size_t length = clean_character(text, true);
        const std::size_t taken = length == 0 ? 1 : length;
        if (out.size() + taken > max) {
            break;
        }
        if (length == 0) {
            out += '?';
        } else {
            out += text.substr(0, length);
        }
        text.remove_prefix(taken);
    }
    return out;
}

} // namespace pageferry::transport::session
