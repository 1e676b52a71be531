// The body of every message of the session protocol, field by field: the one place where the layout is written down in code
// (docs/protocol.md is the same thing for people). Each function serves a Writer and a Reader.
//
// Included by codec.cc alone.
#pragma once

#include "transport/session/messages.h"
#include "transport/session/wire.h"

#include <bit>
#include <limits>
#include <type_traits>

namespace pageferry::transport::session {

// The number of each type on the wire, and its name. Numbers are never reused.
template <class M>
struct Kind;
template <>
struct Kind<Hello> {
    static constexpr std::uint16_t type = 1;
    static constexpr std::string_view name = "Hello";
};
template <>
struct Kind<HelloReply> {
    static constexpr std::uint16_t type = 2;
    static constexpr std::string_view name = "HelloReply";
};
template <>
struct Kind<RamTable> {
    static constexpr std::uint16_t type = 3;
    static constexpr std::string_view name = "RamTable";
};
template <>
struct Kind<DataExtents> {
    static constexpr std::uint16_t type = 4;
    static constexpr std::string_view name = "DataExtents";
};
template <>
struct Kind<Discard> {
    static constexpr std::uint16_t type = 5;
    static constexpr std::string_view name = "Discard";
};
template <>
struct Kind<DiscardDone> {
    static constexpr std::uint16_t type = 6;
    static constexpr std::string_view name = "DiscardDone";
};
template <>
struct Kind<RoundEnd> {
    static constexpr std::uint16_t type = 7;
    static constexpr std::string_view name = "RoundEnd";
};
template <>
struct Kind<DeviceState> {
    static constexpr std::uint16_t type = 8;
    static constexpr std::string_view name = "DeviceState";
};
template <>
struct Kind<Switchover> { // 9 is not used
    static constexpr std::uint16_t type = 10;
    static constexpr std::string_view name = "Switchover";
};
template <>
struct Kind<RamFinal> {
    static constexpr std::uint16_t type = 11;
    static constexpr std::string_view name = "RamFinal";
};
template <>
struct Kind<DeviceLoaded> {
    static constexpr std::uint16_t type = 12;
    static constexpr std::string_view name = "DeviceLoaded";
};
template <>
struct Kind<Permit> {
    static constexpr std::uint16_t type = 13;
    static constexpr std::string_view name = "Permit";
};
template <>
struct Kind<Running> {
    static constexpr std::uint16_t type = 14;
    static constexpr std::string_view name = "Running";
};
template <>
struct Kind<Goodbye> {
    static constexpr std::uint16_t type = 15;
    static constexpr std::string_view name = "Goodbye";
};
template <>
struct Kind<Failure> {
    static constexpr std::uint16_t type = 16;
    static constexpr std::string_view name = "Failure";
};
template <>
struct Kind<Heartbeat> {
    static constexpr std::uint16_t type = 17;
    static constexpr std::string_view name = "Heartbeat";
};

template <>
struct Kind<Delivered> {
    static constexpr std::uint16_t type = 18;
    static constexpr std::string_view name = "Delivered";
};
template <>
struct Kind<PullLimit> {
    static constexpr std::uint16_t type = 19;
    static constexpr std::string_view name = "PullLimit";
};
template <>
struct Kind<PullProgress> {
    static constexpr std::uint16_t type = 20;
    static constexpr std::string_view name = "PullProgress";
};
template <>
struct Kind<Resume> {
    static constexpr std::uint16_t type = 21;
    static constexpr std::string_view name = "Resume";
};
template <>
struct Kind<Received> {
    static constexpr std::uint16_t type = 22;
    static constexpr std::string_view name = "Received";
};

template <class M, class T>
concept Is = std::same_as<std::remove_const_t<M>, T>;

inline constexpr std::size_t range_bytes = 16;       // offset, length
inline constexpr std::size_t least_block_bytes = 23; // number, name of one byte, length, page size

// A number on the wire for an enum; T& for a Reader, const T& for a Writer.
template <std::unsigned_integral Number, class Wire, class Enum>
void enumeration(Wire& wire, Enum& value, Number least, Number most, std::string_view field) {
    auto number = static_cast<Number>(value);
    wire.integer(number, field);
    wire.check(number >= least && number <= most, std::string{field} + " " + std::to_string(number) + " is not known");
    if constexpr (!std::is_const_v<Enum>) {
        value = static_cast<Enum>(number);
    }
}

template <class Wire>
void boolean(Wire& wire, auto& value, std::string_view field) {
    std::uint8_t number = value ? 1 : 0;
    wire.integer(number, field);
    wire.check(number <= 1, std::string{field} + " is neither 0 nor 1");
    if constexpr (!std::is_const_v<std::remove_reference_t<decltype(value)>>) {
        value = number != 0;
    }
}

template <class Wire>
void ranges(Wire& wire, auto& items) {
    wire.array(items, max_ranges, range_bytes, "ranges", [](Wire& one, auto& range) {
        one.integer(range.offset, "range offset");
        one.integer(range.length, "range length");
        one.check(range.length > 0, "an empty range");
        one.check(range.length <= std::numeric_limits<std::uint64_t>::max() - range.offset, "a range that ends beyond 2^64");
    });
}

template <class Wire, class M>
    requires Is<M, Hello>
void layout(Wire& wire, M& m) {
    wire.integer(m.version_min, "lowest version");
    wire.integer(m.version_max, "highest version");
    wire.check(m.version_min >= 1 && m.version_min <= m.version_max,
               "versions " + std::to_string(m.version_min) + " to " + std::to_string(m.version_max) + " are no range");
    wire.fixed(m.session, "session");
    wire.integer(m.epoch, "epoch");
    enumeration<std::uint8_t>(wire, m.role, 1, 2, "role");
    wire.integer(m.features, "features");
    wire.text(m.software, max_name, "software");
}

template <class Wire, class M>
    requires Is<M, HelloReply>
void layout(Wire& wire, M& m) {
    wire.integer(m.version, "version");
    wire.check(m.version >= 1, "version 0");
    wire.fixed(m.session, "session");
    wire.integer(m.epoch, "epoch");
    enumeration<std::uint8_t>(wire, m.role, 1, 2, "role");
    wire.integer(m.features, "features");
    wire.text(m.software, max_name, "software");
}

template <class Wire, class M>
    requires Is<M, RamTable>
void layout(Wire& wire, M& m) {
    wire.array(m.blocks, max_blocks, least_block_bytes, "RAM blocks", [](Wire& one, auto& entry) {
        one.integer(entry.block, "block number");
        one.name(entry.name, max_name, "block name");
        one.integer(entry.length, "block length");
        one.integer(entry.page_size, "page size");
        one.check(std::has_single_bit(entry.page_size), "page size " + std::to_string(entry.page_size) + " is no power of two");
        one.check(entry.length > 0 && entry.length % std::max(entry.page_size, std::uint64_t{1}) == 0,
                  "block length " + std::to_string(entry.length) + " is not a number of whole pages");
    });
    for (std::size_t i = 0; i < m.blocks.size() && wire.good(); ++i) {
        for (std::size_t j = 0; j < i; ++j) {
            wire.check(m.blocks[i].block != m.blocks[j].block, "block number " + std::to_string(m.blocks[i].block) + " twice");
            wire.check(m.blocks[i].name != m.blocks[j].name, "block name " + m.blocks[i].name + " twice");
        }
    }
}

template <class Wire, class M>
    requires Is<M, DataExtents> || Is<M, Discard>
void layout(Wire& wire, M& m) {
    wire.integer(m.block, "block number");
    boolean(wire, m.last, "last");
    ranges(wire, m.ranges);
}

template <class Wire, class M>
    requires Is<M, RoundEnd>
void layout(Wire& wire, M& m) {
    wire.integer(m.round, "round");
    wire.integer(m.bytes, "bytes");
}

template <class Wire, class M>
    requires Is<M, DeviceState>
void layout(Wire& wire, M& m) {
    wire.bytes(m.bytes, max_payload, "bytes of device state");
}

template <class Wire, class M>
    requires Is<M, Permit>
void layout(Wire& wire, M& m) {
    boolean(wire, m.running, "running");
}

template <class Wire, class M>
    requires Is<M, RamFinal>
void layout(Wire& wire, M& m) {
    wire.integer(m.device_state_bytes, "bytes of device state");
    boolean(wire, m.postcopy, "postcopy");
}

template <class Wire, class M>
    requires Is<M, Delivered>
void layout(Wire& wire, M& m) {
    wire.integer(m.block, "block number");
    wire.integer(m.first_page, "first page");
    wire.integer(m.pages, "pages");
    wire.array(m.words, max_words, sizeof(std::uint64_t), "words",
               [](Wire& one, auto& word) { one.integer(word, "word of pages"); });
}

template <class Wire, class M>
    requires Is<M, PullLimit>
void layout(Wire& wire, M& m) {
    wire.integer(m.bytes_per_second, "bytes per second");
}

template <class Wire, class M>
    requires Is<M, PullProgress>
void layout(Wire& wire, M& m) {
    wire.integer(m.missing, "bytes missing");
    wire.integer(m.pulled, "bytes pulled");
    wire.integer(m.requests, "requests");
}

template <class Wire, class M>
    requires Is<M, Resume>
void layout(Wire& wire, M& m) {
    boolean(wire, m.runs, "runs");
    wire.integer(m.missing, "bytes missing");
}

template <class Wire, class M>
    requires Is<M, Failure>
void layout(Wire& wire, M& m) {
    // ok and again are no failures.
    enumeration<std::uint32_t>(wire, m.code, 2, static_cast<std::uint32_t>(ErrorCode::internal), "error code");
    wire.text(m.text, max_text, "text");
}

template <class Wire, class M>
    requires(std::is_empty_v<M>) // a body of no bytes
void layout(Wire& /*wire*/, M& /*m*/) {}

} // namespace pageferry::transport::session
