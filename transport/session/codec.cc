#include "transport/session/layout.h"
#include "transport/session/messages.h"
#include "transport/session/wire.h"

#include <array>
#include <cstdio>
#include <optional>
#include <utility>

namespace pageferry::transport::session {

namespace {

constexpr std::size_t header_bytes = 12; // magic, type, flags (0), length of the body

// What QEMU opens its own migration streams with, big-endian: QEMU_VM_FILE_MAGIC ("QEVM") and MULTIFD_MAGIC.
constexpr std::array qemu_stream{std::byte{0x51}, std::byte{0x45}, std::byte{0x56}, std::byte{0x4d}};
constexpr std::array qemu_multifd{std::byte{0x11}, std::byte{0x22}, std::byte{0x33}, std::byte{0x44}};

bool opens_with(std::span<const std::byte> bytes, std::span<const std::byte> start) {
    return bytes.size() >= start.size() && std::ranges::equal(bytes.first(start.size()), start);
}

std::unexpected<Error> not_protocol(std::string object, std::string reason, std::string remedy = {}) {
    return std::unexpected{
        make_error(ErrorCode::protocol, "read session message", std::move(object), std::move(reason), std::move(remedy))};
}

std::string in_hex(std::span<const std::byte> bytes) {
    std::string text;
    for (const std::byte byte : bytes) {
        std::array<char, 3> digits{};
        std::snprintf(digits.data(), digits.size(), "%02x", std::to_integer<unsigned>(byte));
        text += digits.data();
    }
    return text;
}

template <class M>
Result<Message> decode_body(std::span<const std::byte> body) {
    M message;
    Reader reader{body};
    layout(reader, message);
    if (!reader.good()) {
        return not_protocol(std::string{Kind<M>::name}, reader.problem());
    }
    if (reader.left() != 0) {
        return not_protocol(std::string{Kind<M>::name}, std::to_string(reader.left()) + " bytes follow its last field");
    }
    return Message{std::move(message)};
}

// The alternative of Message whose type number is the given one.
template <std::size_t... I>
std::optional<Result<Message>> decode_type(std::uint16_t type, std::span<const std::byte> body,
                                           std::index_sequence<I...> /*all*/) {
    std::optional<Result<Message>> result;
    const auto attempt = [&]<class M>(std::type_identity<M> /*kind*/) {
        if (type == Kind<M>::type) {
            result = decode_body<M>(body);
        }
    };
    (attempt(std::type_identity<std::variant_alternative_t<I, Message>>{}), ...);
    return result;
}

} // namespace

std::string_view name_of(const Message& message) {
    return std::visit([]<class M>(const M& /*one*/) { return Kind<M>::name; }, message);
}

Result<std::vector<std::byte>> encode(const Message& message) {
    return std::visit(
        []<class M>(const M& one) -> Result<std::vector<std::byte>> {
            std::vector<std::byte> body;
            Writer writer{body};
            layout(writer, one);
            if (!writer.good()) {
                return std::unexpected{make_error(ErrorCode::invalid_argument, "write session message",
                                                  std::string{Kind<M>::name}, writer.problem())};
            }
            static_assert(header_bytes + max_payload + 4 <= PF_CONTROL_MAX);
            static_assert(header_bytes + 16 + max_words * sizeof(std::uint64_t) <= PF_CONTROL_MAX);
            static_assert(header_bytes + 9 + max_ranges * range_bytes <= PF_CONTROL_MAX);
            static_assert(header_bytes + 4 + max_blocks * (22 + max_name) <= PF_CONTROL_MAX);
            std::vector<std::byte> bytes;
            bytes.reserve(header_bytes + body.size());
            put_little(bytes, magic);
            put_little(bytes, Kind<M>::type);
            put_little(bytes, std::uint16_t{0});
            put_little(bytes, static_cast<std::uint32_t>(body.size()));
            bytes.insert(bytes.end(), body.begin(), body.end());
            return bytes;
        },
        message);
}

Result<Message> decode(std::span<const std::byte> bytes) {
    if (opens_with(bytes, qemu_stream) || opens_with(bytes, qemu_multifd)) {
        return not_protocol({}, "the peer is plain QEMU: it sent the start of QEMU's own migration stream",
                            "start both QEMUs through Pageferry");
    }
    if (bytes.size() < header_bytes) {
        return not_protocol({}, "a message of " + std::to_string(bytes.size()) + " bytes, a header alone has " +
                                    std::to_string(header_bytes));
    }
    if (get_little<std::uint32_t>(bytes.first<4>()) != magic) {
        return not_protocol({}, "it opens with the bytes " + in_hex(bytes.first(4)) + ", not with \"PFRY\"",
                            "check that the peer is Pageferry");
    }
    const auto type = get_little<std::uint16_t>(bytes.subspan<4, 2>());
    const auto flags = get_little<std::uint16_t>(bytes.subspan<6, 2>());
    const auto length = get_little<std::uint32_t>(bytes.subspan<8, 4>());
    if (flags != 0) {
        return not_protocol({}, "unknown flags " + std::to_string(flags) + " in the header of a message of type " +
                                    std::to_string(type));
    }
    const auto body = bytes.subspan(header_bytes);
    if (length != body.size()) {
        return not_protocol({}, "the header of a message of type " + std::to_string(type) + " announces " +
                                    std::to_string(length) + " bytes, " + std::to_string(body.size()) + " follow");
    }
    auto message = decode_type(type, body, std::make_index_sequence<std::variant_size_v<Message>>{});
    if (!message) {
        return not_protocol({}, "message type " + std::to_string(type) + " is not known");
    }
    return *std::move(message);
}

} // namespace pageferry::transport::session
