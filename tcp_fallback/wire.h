// What goes over an established connection, version 1. All integers little-endian.
//
// Data lane (bulk, urgent): frames. A frame begins with 32 bytes:
//   0  u16 magic 0x4650   2  u8 type   3  u8 zero   4  u32 count   8  u64 number   16  piece[0]
// A piece is 16 bytes: u64 offset, u32 block, u32 length (1..max_piece_bytes): a stretch of one RAM block. Pieces 1..count-1
// follow the 32 bytes. Then, for data and pulled, the bytes of all the pieces, one after the other, nothing between.
//   data    count 1..max_pieces, number 0: bytes for the receiver's memory
//   pull    count 1..max_pieces, number N: asks for these pieces; they are the lane's N-th, N+1-th, ... requests, from 0
//   pulled  count 1..max_pieces, number N: answers requests N, N+1, ... of this lane; answers come in the order of the requests
//   fence   count 0, number S, piece zero: S grows; sent after all data that the fence covers
//   fenced  count 0, number S, piece zero: the data before fence S, and before every earlier one, is in memory
// At most max_requests requests of a lane may be unanswered. The urgent lane carries pull and pulled only.
//
// The first piece is in the fixed part so that a large piece costs its receiver one system call: its bytes and the next 32.
//
// Control lane: messages, each after 8 bytes:  0  u32 magic 0x4d435450   4  u32 length, 1..PF_CONTROL_MAX
//
// Pure functions; any thread.
#pragma once

#include "base/error.h"
#include "tcp_fallback/kit.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace pageferry::tcp {

inline constexpr std::size_t frame_bytes = 32;
inline constexpr std::size_t piece_bytes = 16;
inline constexpr std::size_t control_header_bytes = 8;
inline constexpr std::uint32_t max_pieces = 64;
inline constexpr std::uint32_t max_piece_bytes = 2U << 20U;
inline constexpr std::uint32_t max_requests = 1024;

enum class FrameType : std::uint8_t { data = 1, pull = 2, pulled = 3, fence = 4, fenced = 5 };

struct Piece {
    std::uint64_t offset = 0; // bytes
    std::uint32_t block = 0;
    std::uint32_t length = 0; // bytes
    bool operator==(const Piece&) const = default;
};

struct Frame {
    FrameType type = FrameType::data;
    std::uint32_t count = 0; // pieces
    std::uint64_t number = 0;
    Piece first;
    bool operator==(const Frame&) const = default;
};

// out: frame_bytes.
void encode_frame(const Frame& frame, std::span<std::byte> out);
// in: frame_bytes. protocol: what of it is wrong.
Result<Frame> decode_frame(std::span<const std::byte> in);

// out, in: piece_bytes. protocol: a length out of range, or an end beyond 2^64.
void encode_piece(const Piece& piece, std::span<std::byte> out);
Result<Piece> decode_piece(std::span<const std::byte> in);

// out, in: control_header_bytes. The length of the message; protocol: not a message, or a length out of range.
void encode_control_header(std::uint32_t length, std::span<std::byte> out);
Result<std::uint32_t> decode_control_header(std::span<const std::byte> in);

} // namespace pageferry::tcp
