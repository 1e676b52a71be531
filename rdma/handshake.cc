#include "rdma/handshake.h"

#include "transport/plugin/bytes.h"

#include <algorithm>
#include <cstring>

namespace pageferry::rdma {

namespace {

constexpr std::string_view magic{"PGFRDMA\n"};
constexpr std::uint32_t verdict_magic = 0x44524556;

Error stranger(std::string reason) {
    return make_error(ErrorCode::protocol, "accept", "connection request", std::move(reason), "connect with Pageferry");
}

std::string range(unsigned lowest, unsigned highest) {
    return std::to_string(lowest) + ".." + std::to_string(highest);
}

} // namespace

std::array<std::byte, request_bytes> encode(const Request& request) {
    std::array<std::byte, request_bytes> out{};
    std::memcpy(out.data(), magic.data(), magic.size());
    store(&out[8], request.lowest);
    store(&out[9], request.highest);
    store(&out[10], static_cast<std::uint8_t>(request.kind));
    store(&out[11], request.index);
    store(&out[12], request.lanes);
    std::memcpy(&out[16], request.session.data(), request.session.size());
    store(&out[32], request.epoch);
    store(&out[40], request.connection);
    return out;
}

Result<Request> decode_request(std::span<const std::byte> in) {
    if (in.size() < request_bytes || std::memcmp(in.data(), magic.data(), magic.size()) != 0) {
        return std::unexpected{
            stranger("the caller does not speak Pageferry's protocol: is it QEMU's own rdma: or another program?")};
    }
    Request request;
    request.lowest = load<std::uint8_t>(&in[8]);
    request.highest = load<std::uint8_t>(&in[9]);
    if (request.lowest > highest_version || request.highest < lowest_version) {
        return std::unexpected{make_error(ErrorCode::version, "accept", "connection request",
                                          "the caller speaks versions " + range(request.lowest, request.highest) +
                                              " of the RDMA handshake, we " + range(lowest_version, highest_version),
                                          "use versions of Pageferry that are closer to each other")};
    }
    const auto kind = load<std::uint8_t>(&in[10]);
    request.index = load<std::uint8_t>(&in[11]);
    request.lanes = load<std::uint8_t>(&in[12]);
    std::memcpy(request.session.data(), &in[16], request.session.size());
    request.epoch = load<std::uint32_t>(&in[32]);
    request.connection = load<std::uint64_t>(&in[40]);
    if (kind > static_cast<std::uint8_t>(LaneKind::urgent) || request.lanes == 0 || request.lanes > max_lanes ||
        (request.index != 0 && (static_cast<LaneKind>(kind) != LaneKind::bulk || request.index >= request.lanes))) {
        return std::unexpected{stranger("its request contradicts itself")};
    }
    request.kind = static_cast<LaneKind>(kind);
    return request;
}

VerdictBytes encode_verdict(int status, std::string_view text) {
    VerdictBytes out;
    const std::size_t length = std::min(text.size(), verdict_text_max);
    store(&out.bytes[0], verdict_magic);
    store(&out.bytes[4], static_cast<std::uint16_t>(status));
    store(&out.bytes[6], highest_version);
    store(&out.bytes[7], static_cast<std::uint8_t>(length));
    std::ranges::copy(std::as_bytes(std::span{text.substr(0, length)}), &out.bytes[verdict_bytes]);
    out.length = static_cast<std::uint8_t>(verdict_bytes + length);
    return out;
}

std::optional<Verdict> decode_verdict(std::span<const std::byte> in) {
    if (in.data() == nullptr || in.size() < verdict_bytes || load<std::uint32_t>(in.data()) != verdict_magic) {
        return std::nullopt;
    }
    const std::size_t length = load<std::uint8_t>(&in[7]);
    if (length > in.size() - verdict_bytes) {
        return std::nullopt;
    }
    Verdict verdict{.status = load<std::uint16_t>(&in[4]), .text = {}};
    for (const std::byte byte : in.subspan(verdict_bytes, length)) {
        const char character = static_cast<char>(byte);
        verdict.text += character >= ' ' && character <= '~' ? character : '?';
    }
    return verdict;
}

std::string title_of(LaneKind kind, unsigned index) {
    switch (kind) {
    case LaneKind::control: return "control lane";
    case LaneKind::service: return "service lane";
    case LaneKind::urgent: return "urgent lane";
    default: return "bulk lane " + std::to_string(index);
    }
}

std::uint32_t number_of(LaneKind kind, unsigned index, unsigned lanes) {
    switch (kind) {
    case LaneKind::control: return 0;
    case LaneKind::service: return lanes + 2;
    case LaneKind::urgent: return lanes + 1;
    default: return index + 1;
    }
}

} // namespace pageferry::rdma
