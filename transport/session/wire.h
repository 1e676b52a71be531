// Writing and reading the bodies of session messages: little-endian integers, counted strings, counted arrays.
//
// Writer and Reader have the same members, so that one description of a message (layout.h) serves both ways. The first thing that
// is wrong is kept as a sentence; everything after it is ignored, and reads give zeros. A Reader never looks beyond its bytes and
// never makes room for more items than the bytes left could hold.
//
// Threads: an object belongs to one thread.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace pageferry::transport::session {

// Little-endian, whatever the host is.
template <std::unsigned_integral T>
void put_little(std::vector<std::byte>& out, T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) {
        out.push_back(static_cast<std::byte>((std::uint64_t{value} >> (8 * i)) & 0xffU));
    }
}

template <std::unsigned_integral T>
T get_little(std::span<const std::byte, sizeof(T)> bytes) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) {
        value |= std::uint64_t{std::to_integer<std::uint8_t>(bytes[i])} << (8 * i);
    }
    return static_cast<T>(value);
}

// What Writer and Reader share: the first problem.
class Body {
public:
    void check(bool good, std::string_view problem) {
        if (!good && problem_.empty()) {
            problem_ = problem;
        }
    }
    [[nodiscard]] bool good() const { return problem_.empty(); }
    [[nodiscard]] const std::string& problem() const { return problem_; }

private:
    std::string problem_;
};

class Writer : public Body {
public:
    explicit Writer(std::vector<std::byte>& out) : out_(out) {}

    template <std::unsigned_integral T>
    void integer(const T& value, std::string_view /*field*/) {
        put_little(out_, value);
    }
    void fixed(std::span<const std::uint8_t> bytes, std::string_view field);
    void name(const std::string& text, std::size_t max, std::string_view field);
    // Cut and cleaned where it must be.
    void text(const std::string& text, std::size_t max, std::string_view field);
    void bytes(const std::vector<std::byte>& bytes, std::size_t max, std::string_view field);
    template <class T, class Item>
    void array(const std::vector<T>& items, std::size_t max, std::size_t /*least*/, std::string_view field, const Item& item) {
        if (items.size() > max) {
            check(false, std::to_string(items.size()) + " " + std::string{field} + ", at most " + std::to_string(max) + " fit");
            return;
        }
        put_little(out_, static_cast<std::uint32_t>(items.size()));
        for (const T& one : items) {
            item(*this, one);
        }
    }

private:
    std::vector<std::byte>& out_;
};

class Reader : public Body {
public:
    explicit Reader(std::span<const std::byte> bytes) : left_(bytes) {}

    template <std::unsigned_integral T>
    void integer(T& value, std::string_view field) {
        value = 0;
        if (const auto raw = take(sizeof(T), field); raw.size() == sizeof(T)) {
            value = get_little<T>(raw.template first<sizeof(T)>());
        }
    }
    void fixed(std::span<std::uint8_t> bytes, std::string_view field);
    void name(std::string& text, std::size_t max, std::string_view field);
    void text(std::string& text, std::size_t max, std::string_view field);
    void bytes(std::vector<std::byte>& bytes, std::size_t max, std::string_view field);
    // least: bytes an item takes at least.
    template <class T, class Item>
    void array(std::vector<T>& items, std::size_t max, std::size_t least, std::string_view field, const Item& item) {
        const std::size_t count = counted(max, least, field);
        items.clear();
        items.reserve(count);
        for (std::size_t i = 0; i < count && good(); ++i) {
            item(*this, items.emplace_back());
        }
    }
    [[nodiscard]] std::size_t left() const { return left_.size(); }

private:
    // The next bytes; empty, with the problem kept, when there are fewer.
    std::span<const std::byte> take(std::size_t size, std::string_view field);
    // A count that the limit allows and the bytes left can hold; else 0, with the problem kept.
    std::size_t counted(std::size_t max, std::size_t least, std::string_view field);
    void string(std::string& text, std::size_t max, std::string_view field);

    std::span<const std::byte> left_;
};

} // namespace pageferry::transport::session
