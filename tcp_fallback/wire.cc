#include "tcp_fallback/wire.h"

#include "transport/abi/pageferry_transport.h"
#include "transport/plugin/bytes.h"

#include <string>

namespace pageferry::tcp {

namespace {

constexpr std::uint16_t frame_magic = 0x4650;         // "PF"
constexpr std::uint32_t control_magic = 0x4d43'5450U; // "PTCM"

Error wrong(std::string object, std::string reason) {
    return make_error(ErrorCode::protocol, "decode", std::move(object), std::move(reason));
}

bool has_pieces(FrameType type) {
    return type == FrameType::data || type == FrameType::pull || type == FrameType::pulled;
}

} // namespace

void encode_piece(const Piece& piece, std::span<std::byte> out) {
    store(out.data(), piece.offset);
    store(&out[8], piece.block);
    store(&out[12], piece.length);
}

Result<Piece> decode_piece(std::span<const std::byte> in) {
    const Piece piece{
        .offset = load<std::uint64_t>(in.data()), .block = load<std::uint32_t>(&in[8]), .length = load<std::uint32_t>(&in[12])};
    if (piece.length == 0 || piece.length > max_piece_bytes) {
        return std::unexpected{
            wrong("piece", "length " + std::to_string(piece.length) + " is not in 1.." + std::to_string(max_piece_bytes))};
    }
    if (piece.offset > UINT64_MAX - piece.length) {
        return std::unexpected{wrong("piece", "it ends beyond 2^64")};
    }
    return piece;
}

void encode_frame(const Frame& frame, std::span<std::byte> out) {
    store(out.data(), frame_magic);
    out[2] = static_cast<std::byte>(frame.type);
    out[3] = std::byte{0};
    store(&out[4], frame.count);
    store(&out[8], frame.number);
    encode_piece(frame.first, out.subspan(16, piece_bytes));
}

Result<Frame> decode_frame(std::span<const std::byte> in) {
    if (load<std::uint16_t>(in.data()) != frame_magic || in[3] != std::byte{0}) {
        return std::unexpected{wrong("frame", "it does not begin with the frame magic")};
    }
    const auto type = std::to_integer<std::uint8_t>(in[2]);
    if (type < static_cast<std::uint8_t>(FrameType::data) || type > static_cast<std::uint8_t>(FrameType::fenced)) {
        return std::unexpected{wrong("frame", "unknown type " + std::to_string(type))};
    }
    Frame frame{.type = static_cast<FrameType>(type),
                .count = load<std::uint32_t>(&in[4]),
                .number = load<std::uint64_t>(&in[8]),
                .first = {}};
    if (!has_pieces(frame.type)) {
        if (frame.count != 0) {
            return std::unexpected{wrong("frame", "a fence with pieces")};
        }
        return frame;
    }
    if (frame.count == 0 || frame.count > max_pieces) {
        return std::unexpected{wrong("frame", std::to_string(frame.count) + " pieces, not 1.." + std::to_string(max_pieces))};
    }
    auto first = decode_piece(in.subspan(16, piece_bytes));
    if (!first) {
        return std::unexpected{std::move(first.error())};
    }
    frame.first = *first;
    return frame;
}

void encode_control_header(std::uint32_t length, std::span<std::byte> out) {
    store(out.data(), control_magic);
    store(&out[4], length);
}

Result<std::uint32_t> decode_control_header(std::span<const std::byte> in) {
    if (load<std::uint32_t>(in.data()) != control_magic) {
        return std::unexpected{wrong("control message", "it does not begin with the message magic")};
    }
    const auto length = load<std::uint32_t>(&in[4]);
    if (length == 0 || length > PF_CONTROL_MAX) {
        return std::unexpected{
            wrong("control message", "length " + std::to_string(length) + " is not in 1.." + std::to_string(PF_CONTROL_MAX))};
    }
    return length;
}

} // namespace pageferry::tcp
