// Joins strings, characters and integers into one string: GCC 12 has no std::format.
//
// Pure; any thread.
#pragma once

#include <concepts>
#include <string>
#include <string_view>

namespace pageferry::hypervisor {

inline void append(std::string& to, std::string_view text) {
    to += text;
}
template <std::integral N>
    requires(!std::same_as<N, char> && !std::same_as<N, bool>)
void append(std::string& to, N number) {
    to += std::to_string(number);
}

template <class... Parts>
std::string join(const Parts&... parts) {
    std::string text;
    (append(text, parts), ...);
    return text;
}

} // namespace pageferry::hypervisor
