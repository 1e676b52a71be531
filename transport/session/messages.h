// The session protocol: what the two engines of a migration say to each other on a connection's control lane.
//
// docs/protocol.md is its specification. Every message is one control message: a header (magic, type, length) and a body of
// little-endian integers, counted strings and counted arrays. encode() and decode() are pure functions on bytes; decode() never
// reads beyond what it is given, refuses every count that the bytes cannot hold, and refuses trailing bytes.
//
// Order of a precopy migration (S source, D destination):
//   S Hello → D HelloReply | Refusal
//   S RamTable → D DataExtents… (what D's RAM holds) → S Discard… (of that, what S has not) → D DiscardDone
//   pushes on the bulk lanes, S RoundEnd after each round
//   S DeviceState… as QEMU's stream comes; it has no return path
//   S Switchover: the guest is stopped; device state that follows is held back by D
//   S RamFinal after the last fence: RAM and device state are complete → D loads → D DeviceLoaded
//   S Permit: from here on S never runs by itself → D runs → D Running → S Goodbye
// Postcopy differs from the switchover on:
//   S Switchover, S Delivered… (which pages D has as they are now; the rest of it at any time after), S RamFinal
//   D pulls from here on; D DeviceLoaded → S Permit → D Running; S PullLimit when it changes, D PullProgress now and then
//   D Received: it has everything → S Goodbye
// A later connection of a session that is not settled:
//   S Hello → D HelloReply → S RamTable → D Resume → (Permit, Running where the guest does not run yet) → as before
//   either: Failure (with text) at any time; Heartbeat when nothing else was said for a while
#pragma once

#include "base/error.h"
#include "transport/connection.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace pageferry::transport::session {

inline constexpr std::uint32_t magic = 0x59524650; // "PFRY", little-endian
inline constexpr std::uint16_t version_min = 1;
inline constexpr std::uint16_t version_max = 1;
inline constexpr std::size_t max_name = 255;            // bytes in a RAM block id; QEMU's own limit (idstr[256])
inline constexpr std::size_t max_blocks = 128;          // RAM blocks in a table
inline constexpr std::size_t max_ranges = 2048;         // ranges in one message
inline constexpr std::size_t max_payload = 60UL * 1024; // bytes of device state in one message
inline constexpr std::size_t max_words = 7680;          // words of a bitmap in one message: 1920 MiB of RAM in pages of 4 KiB
inline constexpr std::size_t max_text = 2048;           // bytes in a text for people

enum class Role : std::uint8_t { source = 1, destination = 2 };

// Feature bits of Hello and HelloReply. A destination that waits for a migration does not know this one: it answers without it,
// and what follows turns the prober away as any stranger.
inline constexpr std::uint64_t feature_probe = std::uint64_t{1} << 63U; // a probe of the connection, no migration

inline constexpr std::uint64_t feature_postcopy = std::uint64_t{1} << 0U; // the migration may be switched to postcopy

struct Range {
    std::uint64_t offset = 0; // bytes
    std::uint64_t length = 0; // bytes
    bool operator==(const Range&) const = default;
};

struct RamTableEntry {
    std::uint32_t block = 0; // the number used from here on
    std::string name;
    std::uint64_t length = 0;    // bytes
    std::uint64_t page_size = 0; // bytes
    bool operator==(const RamTableEntry&) const = default;
};

struct Hello {
    std::uint16_t version_min = session::version_min, version_max = session::version_max;
    SessionId session{};
    std::uint32_t epoch = 0;
    Role role = Role::source;
    std::uint64_t features = 0; // bits that both sides must know are agreed by AND: feature_...
    std::string software;       // "pageferry 0.1.0", for people
    bool operator==(const Hello&) const = default;
};
struct HelloReply {
    std::uint16_t version = session::version_max;
    SessionId session{};
    std::uint32_t epoch = 0;
    Role role = Role::destination;
    std::uint64_t features = 0;
    std::string software;
    bool operator==(const HelloReply&) const = default;
};
struct RamTable {
    std::vector<RamTableEntry> blocks;
    bool operator==(const RamTable&) const = default;
};
// What the destination's RAM holds before the first push. last: no more of these follow.
struct DataExtents {
    std::uint32_t block = 0;
    bool last = false;
    std::vector<Range> ranges;
    bool operator==(const DataExtents&) const = default;
};
struct Discard {
    std::uint32_t block = 0;
    bool last = false;
    std::vector<Range> ranges;
    bool operator==(const Discard&) const = default;
};
struct DiscardDone {
    bool operator==(const DiscardDone&) const = default;
};
struct RoundEnd {
    std::uint64_t round = 0;
    std::uint64_t bytes = 0;
    bool operator==(const RoundEnd&) const = default;
};
struct DeviceState {
    std::vector<std::byte> bytes;
    bool operator==(const DeviceState&) const = default;
};
struct Switchover {
    bool operator==(const Switchover&) const = default;
};
struct RamFinal {
    std::uint64_t device_state_bytes = 0;
    bool postcopy = false; // what Delivered does not name is still to be pulled
    bool operator==(const RamFinal&) const = default;
};
struct DeviceLoaded {
    bool operator==(const DeviceLoaded&) const = default;
};
struct Permit {
    bool running = true; // the guest ran until it was stopped for the switchover, and is to run again
    bool operator==(const Permit&) const = default;
};
struct Running {
    bool operator==(const Running&) const = default;
};
struct Goodbye {
    bool operator==(const Goodbye&) const = default;
};
struct Failure {
    ErrorCode code = ErrorCode::internal;
    std::string text;
    bool operator==(const Failure&) const = default;
};
struct Heartbeat {
    bool operator==(const Heartbeat&) const = default;
};
// Of so many pages of a block from first_page on, which the destination has as they are at the source: bit N of word W is page
// first_page + 64 * W + N. No words: none of them. Each block from its beginning, without gaps.
struct Delivered {
    std::uint32_t block = 0;
    std::uint64_t first_page = 0;
    std::uint64_t pages = 0;
    std::vector<std::uint64_t> words;
    bool operator==(const Delivered&) const = default;
};
struct PullLimit {
    std::uint64_t bytes_per_second = 0; // of pulls that no fault waits for; 0: none
    bool operator==(const PullLimit&) const = default;
};
struct PullProgress {
    std::uint64_t missing = 0;  // bytes
    std::uint64_t pulled = 0;   // bytes in all
    std::uint64_t requests = 0; // pages that were pulled for a fault
    bool operator==(const PullProgress&) const = default;
};
// What the destination says of itself at a later connection of a session.
struct Resume {
    bool runs = false;         // the guest runs here; if not, it waits for a permit
    std::uint64_t missing = 0; // bytes to be pulled
    bool operator==(const Resume&) const = default;
};
struct Received {
    bool operator==(const Received&) const = default;
};

using Message = std::variant<Hello, HelloReply, RamTable, DataExtents, Discard, DiscardDone, RoundEnd, DeviceState, Switchover,
                             RamFinal, DeviceLoaded, Permit, Running, Goodbye, Failure, Heartbeat, Delivered, PullLimit,
                             PullProgress, Resume, Received>;

// "RamTable": for errors and logs.
std::string_view name_of(const Message& message);

// The whole message, at most PF_CONTROL_MAX bytes. invalid_argument when it breaks a limit above (a defect of the caller). Texts
// for people (Failure.text, software) are cut and cleaned instead: to say what went wrong never fails.
Result<std::vector<std::byte>> encode(const Message& message);

// protocol: not ours (wrong magic, with a hint when the bytes are QEMU's own stream), unknown type, bad length, bad count, bad
// value.
Result<Message> decode(std::span<const std::byte> bytes);

// The highest version both know; version error that names both ranges otherwise.
Result<std::uint16_t> agree_version(const Hello& peer);

// invalid_argument naming the first block that differs, with both sides' figures: missing, length, page size. On success gives,
// for each of the source's entries in order, the index of the local entry of the same name.
Result<std::vector<std::size_t>> match_ram_tables(std::span<const RamTableEntry> source, std::span<const RamTableEntry> local);

} // namespace pageferry::transport::session
