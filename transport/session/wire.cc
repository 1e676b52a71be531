#include "transport/session/wire.h"

#include "transport/session/text.h"

namespace pageferry::transport::session {

namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
    return std::as_bytes(std::span{text});
}

std::string too_long(std::string_view field, std::size_t size, std::size_t max) {
    return std::string{field} + " of " + std::to_string(size) + " bytes, at most " + std::to_string(max) + " fit";
}

} // namespace

void Writer::fixed(std::span<const std::uint8_t> bytes, std::string_view /*field*/) {
    std::ranges::for_each(bytes, [&](std::uint8_t byte) { out_.push_back(std::byte{byte}); });
}

void Writer::name(const std::string& text, std::size_t max, std::string_view field) {
    check(!text.empty(), std::string{field} + " is empty");
    check(is_clean(text, false), std::string{field} + " is not plain UTF-8 text");
    check(text.size() <= max, too_long(field, text.size(), max));
    if (good()) {
        put_little(out_, static_cast<std::uint16_t>(text.size()));
        out_.insert(out_.end(), bytes_of(text).begin(), bytes_of(text).end());
    }
}

void Writer::text(const std::string& text, std::size_t max, std::string_view /*field*/) {
    const std::string clean = cleaned(text, max);
    put_little(out_, static_cast<std::uint16_t>(clean.size()));
    out_.insert(out_.end(), bytes_of(clean).begin(), bytes_of(clean).end());
}

void Writer::bytes(const std::vector<std::byte>& bytes, std::size_t max, std::string_view field) {
    check(bytes.size() <= max, too_long(field, bytes.size(), max));
    if (good()) {
        put_little(out_, static_cast<std::uint32_t>(bytes.size()));
        out_.insert(out_.end(), bytes.begin(), bytes.end());
    }
}

std::span<const std::byte> Reader::take(std::size_t size, std::string_view field) {
    if (!good()) {
        return {};
    }
    if (left_.size() < size) {
        check(false, "it ends within " + std::string{field} + ": " + std::to_string(size) + " bytes needed, " +
                         std::to_string(left_.size()) + " left");
        return {};
    }
    const auto taken = left_.first(size);
    left_ = left_.subspan(size);
    return taken;
}

std::size_t Reader::counted(std::size_t max, std::size_t least, std::string_view field) {
    std::uint32_t count = 0;
    integer(count, field);
    check(count <= max, std::to_string(count) + " " + std::string{field} + ", at most " + std::to_string(max) + " are allowed");
    check(count <= left_.size() / least, std::to_string(count) + " " + std::string{field} + " cannot be in the " +
                                             std::to_string(left_.size()) + " bytes that are left");
    return good() ? count : 0;
}

void Reader::fixed(std::span<std::uint8_t> bytes, std::string_view field) {
    const auto raw = take(bytes.size(), field);
    for (std::size_t i = 0; i < raw.size(); ++i) {
        bytes[i] = std::to_integer<std::uint8_t>(raw[i]);
    }
}

void Reader::string(std::string& text, std::size_t max, std::string_view field) {
    std::uint16_t size = 0;
    integer(size, field);
    check(size <= max, too_long(field, size, max));
    text.clear();
    for (const std::byte byte : take(size, field)) {
        text += static_cast<char>(std::to_integer<unsigned char>(byte));
    }
}

void Reader::name(std::string& text, std::size_t max, std::string_view field) {
    string(text, max, field);
    check(!text.empty(), std::string{field} + " is empty");
    check(is_clean(text, false), std::string{field} + " is not plain UTF-8 text");
}

void Reader::text(std::string& text, std::size_t max, std::string_view field) {
    string(text, max, field);
    check(is_clean(text, true), std::string{field} + " is not plain UTF-8 text");
}

void Reader::bytes(std::vector<std::byte>& bytes, std::size_t max, std::string_view field) {
    const std::size_t size = counted(max, 1, field);
    const auto raw = take(size, field);
    bytes.assign(raw.begin(), raw.end());
}

} // namespace pageferry::transport::session
