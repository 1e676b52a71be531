// How a connection comes about, version 1: who says what, and what it looks like. All integers little-endian.
//
// For each of its sockets (control, N bulk, urgent):
//   the listener speaks first:  greeting, 16 bytes:  "PGFERRY\n", u16 lowest version, u16 highest version, u32 zero
//   the caller answers:         preamble, 64 bytes:  "PGFLANE\n", u16 version, u16 kind, u16 index, u16 bulk lanes,
//                                                    connection id[16], session[16], u32 epoch, u32 zero, u64 zero
// When all the sockets of a connection id are there, the listener says so on the control socket; a socket that it turns away is
// told why:
//                               verdict, 8 bytes:    u32 magic 0x44524556, u16 status (0: ready, else enum pf_status), u16 text
//                               length,
//                                                    then the text
// The magic and the versions keep their places in every version to come. Because the listener speaks first, a caller that has
// reached something else, such as a plain QEMU that waits for a migration stream, has sent it nothing.
//
// Pure functions; any thread.
#pragma once

#include "base/error.h"
#include "tcp_fallback/kit.h"
#include "transport/abi/pageferry_transport.h"
#include "transport/plugin/options.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::tcp {

inline constexpr std::uint16_t lowest_version = 1;
inline constexpr std::uint16_t highest_version = 1;
inline constexpr std::size_t greeting_bytes = 16;
inline constexpr std::size_t preamble_bytes = 64;
inline constexpr std::size_t verdict_bytes = 8;
inline constexpr std::size_t verdict_text_max = 200;
static_assert(max_lanes <= 64); // of the preamble

struct Greeting {
    std::uint16_t lowest = lowest_version;
    std::uint16_t highest = highest_version;
    bool operator==(const Greeting&) const = default;
};

enum class LaneKind : std::uint16_t { control = 0, bulk = 1, urgent = 2 };

using Id = std::array<std::uint8_t, 16>;

struct Preamble {
    std::uint16_t version = highest_version;
    LaneKind kind = LaneKind::control;
    std::uint16_t index = 0; // among the bulk lanes; 0 for the others
    std::uint16_t lanes = 1; // bulk lanes of the connection
    Id connection{};
    Id session{};
    std::uint32_t epoch = 0;
    bool operator==(const Preamble&) const = default;
};

struct Verdict {
    std::uint16_t status = PF_OK; // enum pf_status; PF_OK: ready
    std::uint16_t text_length = 0;
};

void encode_greeting(const Greeting& greeting, std::span<std::byte> out);
// protocol: not a greeting.
Result<Greeting> decode_greeting(std::span<const std::byte> in);
// The highest version both know. version: there is none, with both ranges in the reason.
Result<std::uint16_t> choose_version(const Greeting& greeting);

void encode_preamble(const Preamble& preamble, std::span<std::byte> out);
// protocol: not a preamble, or one that contradicts itself. version: a preamble of a version that we do not speak.
Result<Preamble> decode_preamble(std::span<const std::byte> in);
// Who it is that has sent these first bytes, fewer than a preamble perhaps. Nothing: it may still become a preamble.
std::optional<std::string> name_stranger(std::span<const std::byte> first);

// The text is cut at verdict_text_max.
std::vector<std::byte> encode_verdict(int status, std::string_view text);
// in: verdict_bytes. protocol: not a verdict.
Result<Verdict> decode_verdict(std::span<const std::byte> in);
// A peer's text made fit for a log: printable ASCII only.
std::string printable(std::span<const std::byte> text);

} // namespace pageferry::tcp
