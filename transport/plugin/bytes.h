// Integers on the wire: little-endian, byte by byte, whatever the host is.
//
// Pure functions; any thread.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace pageferry::plugin {

template <std::unsigned_integral T>
void store(std::byte* to, T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) {
        to[i] = static_cast<std::byte>((static_cast<std::uint64_t>(value) >> (8 * i)) & 0xff);
    }
}

template <std::unsigned_integral T>
T load(const std::byte* from) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) {
        value |= std::to_integer<std::uint64_t>(from[i]) << (8 * i);
    }
    return static_cast<T>(value);
}

} // namespace pageferry::plugin
