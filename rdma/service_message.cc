#include "rdma/service_message.h"

#include "transport/plugin/bytes.h"

namespace pageferry::rdma {

namespace {
constexpr std::uint32_t magic = 0x4d535250;
}

std::array<std::byte, service_bytes> encode(const ServiceMessage& message) {
    std::array<std::byte, service_bytes> out{};
    store(&out[0], magic);
    store(&out[4], static_cast<std::uint16_t>(message.type));
    store(&out[6], message.status);
    store(&out[8], message.number);
    store(&out[12], message.block);
    store(&out[16], message.offset);
    store(&out[24], message.length);
    store(&out[32], message.address);
    store(&out[40], message.key);
    store(&out[44], message.native);
    return out;
}

Result<ServiceMessage> decode_service(std::span<const std::byte> in) {
    const auto refuse = [](std::string reason) {
        return std::unexpected{make_error(ErrorCode::protocol, "read", "service message", std::move(reason))};
    };
    if (in.size() != service_bytes || load<std::uint32_t>(in.data()) != magic) {
        return refuse("it is none");
    }
    const auto type = load<std::uint16_t>(&in[4]);
    if (type < static_cast<std::uint16_t>(ServiceMessage::Type::ask) ||
        type > static_cast<std::uint16_t>(ServiceMessage::Type::fenced)) {
        return refuse("type " + std::to_string(type) + " is not known");
    }
    return ServiceMessage{.type = static_cast<ServiceMessage::Type>(type),
                          .status = load<std::uint16_t>(&in[6]),
                          .number = load<std::uint32_t>(&in[8]),
                          .block = load<std::uint32_t>(&in[12]),
                          .offset = load<std::uint64_t>(&in[16]),
                          .length = load<std::uint64_t>(&in[24]),
                          .address = load<std::uint64_t>(&in[32]),
                          .key = load<std::uint32_t>(&in[40]),
                          .native = load<std::uint32_t>(&in[44])};
}

} // namespace pageferry::rdma
