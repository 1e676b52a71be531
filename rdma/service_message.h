// What the service lanes of the two sides say to each other, version 1: 48 bytes each, all integers little-endian.
//
//   0 u32 magic 0x4d535250   4 u16 type   6 u16 status   8 u32 number   12 u32 block   16 u64 offset   24 u64 length
//   32 u64 address   40 u32 key   44 u32 native
//   register    number: the asker's for this region; block, offset, length: please register it for what your side allows;
//               status: 1 where a page fault waits for it, which then goes before all others
//   registered  number, address, key: it is; address is the region's first byte, key the rkey
//   denied      number, status (enum pf_status), native (errno): it is not
//   fenced      number: all pushes before that fence (the immediate data on the bulk lanes) are in memory and visible
// At most max_requests `register` are unanswered, and max_fences fences: receive buffers are there for all of them, and no
// message ever waits for one.
//
// Pure functions; any thread.
#pragma once

#include "base/error.h"
#include "rdma/kit.h"
#include "transport/abi/pageferry_transport.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace pageferry::rdma {

inline constexpr std::size_t service_bytes = 48;
inline constexpr std::size_t max_requests = 32;
inline constexpr std::size_t max_fences = 4;
inline constexpr std::uint16_t fault_waits = 1;                                   // status of a `register`
inline constexpr std::size_t service_depth = (2 * max_requests) + max_fences + 4; // requests, answers, fenced, and room

struct ServiceMessage {
    enum class Type : std::uint16_t { ask = 1, registered = 2, denied = 3, fenced = 4 };
    Type type = Type::ask;
    std::uint16_t status = PF_OK;
    std::uint32_t number = 0;
    std::uint32_t block = 0;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    std::uint64_t address = 0;
    std::uint32_t key = 0;
    std::uint32_t native = 0;
    bool operator==(const ServiceMessage&) const = default;
};

std::array<std::byte, service_bytes> encode(const ServiceMessage& message);
// protocol: not one of these.
Result<ServiceMessage> decode_service(std::span<const std::byte> in);

} // namespace pageferry::rdma
