#include "tcp_fallback/handshake.h"

#include "transport/plugin/bytes.h"

#include <algorithm>
#include <cstring>

namespace pageferry::tcp {

namespace {

constexpr std::string_view greeting_magic = "PGFERRY\n";
constexpr std::string_view preamble_magic = "PGFLANE\n";
constexpr std::uint32_t verdict_magic = 0x4452'4556U; // "VERD"

std::string_view as_text(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void put_magic(std::string_view magic, std::span<std::byte> out) {
    std::memcpy(out.data(), magic.data(), magic.size());
}

Error wrong(std::string object, std::string reason) {
    return make_error(ErrorCode::protocol, "handshake", std::move(object), std::move(reason));
}

std::string range(std::uint16_t lowest, std::uint16_t highest) {
    return std::to_string(lowest) + ".." + std::to_string(highest);
}

} // namespace

void encode_greeting(const Greeting& greeting, std::span<std::byte> out) {
    put_magic(greeting_magic, out);
    store(&out[8], greeting.lowest);
    store(&out[10], greeting.highest);
    store(&out[12], std::uint32_t{0});
}

Result<Greeting> decode_greeting(std::span<const std::byte> in) {
    if (!as_text(in).starts_with(greeting_magic)) {
        return std::unexpected{wrong("greeting", "the peer greets as something that is not Pageferry")};
    }
    const Greeting greeting{.lowest = load<std::uint16_t>(&in[8]), .highest = load<std::uint16_t>(&in[10])};
    if (greeting.lowest > greeting.highest) {
        return std::unexpected{wrong("greeting", "an empty range of versions " + range(greeting.lowest, greeting.highest))};
    }
    return greeting;
}

Result<std::uint16_t> choose_version(const Greeting& greeting) {
    const std::uint16_t version = std::min(greeting.highest, highest_version);
    if (version < greeting.lowest || version < lowest_version) {
        return std::unexpected{make_error(ErrorCode::version, "handshake", "version",
                                          "the peer speaks versions " + range(greeting.lowest, greeting.highest) + ", we " +
                                              range(lowest_version, highest_version),
                                          "bring both hosts to releases of Pageferry that have a version in common")};
    }
    return version;
}

void encode_preamble(const Preamble& preamble, std::span<std::byte> out) {
    std::ranges::fill(out.first(preamble_bytes), std::byte{0});
    put_magic(preamble_magic, out);
    store(&out[8], preamble.version);
    store(&out[10], static_cast<std::uint16_t>(preamble.kind));
    store(&out[12], preamble.index);
    store(&out[14], preamble.lanes);
    std::memcpy(&out[16], preamble.connection.data(), preamble.connection.size());
    std::memcpy(&out[32], preamble.session.data(), preamble.session.size());
    store(&out[48], preamble.epoch);
}

Result<Preamble> decode_preamble(std::span<const std::byte> in) {
    if (!as_text(in).starts_with(preamble_magic)) {
        return std::unexpected{wrong("preamble", name_stranger(in).value_or("it does not begin with the preamble magic"))};
    }
    Preamble preamble;
    preamble.version = load<std::uint16_t>(&in[8]);
    if (preamble.version < lowest_version || preamble.version > highest_version) {
        return std::unexpected{make_error(ErrorCode::version, "handshake", "version",
                                          "the peer chose version " + std::to_string(preamble.version) + ", we speak " +
                                              range(lowest_version, highest_version))};
    }
    const auto kind = load<std::uint16_t>(&in[10]);
    preamble.kind = static_cast<LaneKind>(kind);
    preamble.index = load<std::uint16_t>(&in[12]);
    preamble.lanes = load<std::uint16_t>(&in[14]);
    std::memcpy(preamble.connection.data(), &in[16], preamble.connection.size());
    std::memcpy(preamble.session.data(), &in[32], preamble.session.size());
    preamble.epoch = load<std::uint32_t>(&in[48]);
    if (preamble.lanes == 0 || preamble.lanes > max_lanes) {
        return std::unexpected{
            wrong("preamble", std::to_string(preamble.lanes) + " bulk lanes, not 1.." + std::to_string(max_lanes))};
    }
    const std::uint16_t of_kind = preamble.kind == LaneKind::bulk ? preamble.lanes : std::uint16_t{1};
    if (kind > static_cast<std::uint16_t>(LaneKind::urgent) || preamble.index >= of_kind) {
        return std::unexpected{
            wrong("preamble", "there is no lane of kind " + std::to_string(kind) + ", number " + std::to_string(preamble.index))};
    }
    return preamble;
}

std::optional<std::string> name_stranger(std::span<const std::byte> first) {
    const std::string_view text = as_text(first);
    const std::size_t known = std::min(text.size(), preamble_magic.size());
    if (text.substr(0, known) == preamble_magic.substr(0, known)) {
        return std::nullopt;
    }
    if (text.starts_with("QEVM")) {
        return "it is plain QEMU: this is the beginning of QEMU's own migration stream";
    }
    if (text.starts_with("\x11\x22\x33\x44")) {
        return "it is plain QEMU: this is the beginning of a multifd channel";
    }
    if (text.starts_with("\x16\x03")) {
        return "it speaks TLS";
    }
    // Four bytes tell the ones above apart; with fewer, only those that can still become none of them are named.
    if (text.size() >= 4) {
        return "it does not speak Pageferry's protocol";
    }
    return std::nullopt;
}

std::vector<std::byte> encode_verdict(int status, std::string_view text) {
    text = text.substr(0, verdict_text_max);
    std::vector<std::byte> out(verdict_bytes + text.size());
    store(out.data(), verdict_magic);
    store(&out[4], static_cast<std::uint16_t>(status));
    store(&out[6], static_cast<std::uint16_t>(text.size()));
    std::ranges::transform(text, out.begin() + verdict_bytes, [](char letter) { return static_cast<std::byte>(letter); });
    return out;
}

Result<Verdict> decode_verdict(std::span<const std::byte> in) {
    const Verdict verdict{.status = load<std::uint16_t>(&in[4]), .text_length = load<std::uint16_t>(&in[6])};
    if (load<std::uint32_t>(in.data()) != verdict_magic || verdict.text_length > verdict_text_max) {
        return std::unexpected{wrong("verdict", "the peer's answer to the handshake is not one")};
    }
    return verdict;
}

std::string printable(std::span<const std::byte> text) {
    std::string out;
    for (const std::byte byte : text) {
        const auto letter = std::to_integer<char>(byte);
        out += letter >= ' ' && letter <= '~' ? letter : '?';
    }
    return out;
}

} // namespace pageferry::tcp
