// What both sides say in the connection manager's private data, version 1, so that a stranger is rejected before it has a queue
// pair. All integers little-endian.
//
//   request (RDMA_PS_TCP leaves 56 bytes):  0 "PGFRDMA\n"   8 u8 lowest version  9 u8 highest version  10 u8 kind  11 u8 index
//                                           12 u8 bulk lanes  13 u8 zero[3]  16 u8 session[16]  32 u32 epoch  36 u32 zero
//                                           40 u64 connection id
//   accept, reject (148 bytes):             0 u32 magic 0x44524556   4 u16 status (0: taken, else enum pf_status)
//                                           6 u8 version   7 u8 text length   8 text
// Magic and versions keep their places in every version to come. The kernel may pad private data with zeros.
//
// Pure functions; any thread.
#pragma once

#include "base/error.h"
#include "rdma/kit.h"
#include "transport/abi/pageferry_transport.h"
#include "transport/plugin/options.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace pageferry::rdma {

inline constexpr std::uint8_t lowest_version = 1;
inline constexpr std::uint8_t highest_version = 1;
inline constexpr std::size_t request_bytes = 48;
inline constexpr std::size_t verdict_bytes = 8;
inline constexpr std::size_t verdict_text_max = 140;

// A connection's queue pairs, in the order of their numbers: control, service, bulk 0.., urgent.
enum class LaneKind : std::uint8_t { control = 0, service = 1, bulk = 2, urgent = 3 };

struct Request {
    std::uint8_t lowest = lowest_version;
    std::uint8_t highest = highest_version;
    LaneKind kind = LaneKind::control;
    std::uint8_t index = 0; // among the bulk lanes; 0 for the others
    std::uint8_t lanes = 1; // bulk lanes of the connection
    std::array<std::uint8_t, PF_SESSION_BYTES> session{};
    std::uint32_t epoch = 0;
    std::uint64_t connection = 0; // chosen at random by the caller
    bool operator==(const Request&) const = default;
};

struct Verdict {
    int status = PF_OK;
    std::string text;
};

std::array<std::byte, request_bytes> encode(const Request& request);
// protocol: not a request of ours. version: of versions that we do not speak, with both ranges in the reason.
Result<Request> decode_request(std::span<const std::byte> in);

// The text is cut at verdict_text_max and made printable.
struct VerdictBytes {
    std::array<std::byte, verdict_bytes + verdict_text_max> bytes{};
    std::uint8_t length = 0;
};
VerdictBytes encode_verdict(int status, std::string_view text);
// Nothing: not a verdict of ours.
std::optional<Verdict> decode_verdict(std::span<const std::byte> in);

// "control lane", "bulk lane 2"
std::string title_of(LaneKind kind, unsigned index);
// The lane's number in pf_error: 0 is control.
std::uint32_t number_of(LaneKind kind, unsigned index, unsigned lanes);

} // namespace pageferry::rdma
