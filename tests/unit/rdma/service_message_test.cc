// What the service lanes say to each other.
#include "rdma/service_message.h"

#include <gtest/gtest.h>

#include <vector>

namespace pageferry::rdma {
namespace {

using Type = ServiceMessage::Type;

ServiceMessage sample(Type type) {
    return {.type = type,
            .status = PF_RESOURCES,
            .number = 0x01020304,
            .block = 7,
            .offset = 0x1000'0000'0000,
            .length = 0x400'0000,
            .address = 0x7fff'1234'5678'9000,
            .key = 0xcafe,
            .native = 12};
}

TEST(RdmaServiceMessage, DecodesToWhatWasEncoded) {
    for (const Type type : {Type::ask, Type::registered, Type::denied, Type::fenced}) {
        const auto again = decode_service(encode(sample(type)));
        ASSERT_TRUE(again) << again.error().to_string();
        EXPECT_EQ(*again, sample(type));
    }
}

TEST(RdmaServiceMessage, IsTheSameBytesOnEveryHost) {
    const auto bytes = encode(sample(Type::registered));
    const auto at = [&](std::size_t i) { return std::to_integer<int>(bytes[i]); };
    EXPECT_EQ(at(0), 0x50); // "PRSM"
    EXPECT_EQ(at(3), 0x4d);
    EXPECT_EQ(at(4), 2);
    EXPECT_EQ(at(6), PF_RESOURCES);
    EXPECT_EQ(at(8), 0x04);
    EXPECT_EQ(at(12), 7);
    EXPECT_EQ(at(27), 0x04); // length
    EXPECT_EQ(at(33), 0x90); // address
    EXPECT_EQ(at(40), 0xfe);
    EXPECT_EQ(at(44), 12);
}

TEST(RdmaServiceMessage, OfAnotherLengthIsNone) {
    const auto bytes = encode(sample(Type::ask));
    std::vector<std::byte> other{bytes.begin(), bytes.end()};
    other.push_back(std::byte{0});
    EXPECT_FALSE(decode_service(other));
    for (std::size_t length = 0; length < service_bytes; ++length) {
        const auto cut = decode_service(std::span{bytes}.first(length));
        ASSERT_FALSE(cut) << length;
        EXPECT_EQ(cut.error().code, ErrorCode::protocol);
    }
}

TEST(RdmaServiceMessage, OfAnotherProgramIsNone) {
    auto bytes = encode(sample(Type::ask));
    bytes[2] ^= std::byte{0x10};
    const auto refused = decode_service(bytes);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::protocol);
}

TEST(RdmaServiceMessage, OfAnUnknownTypeIsRefusedWithIt) {
    for (const int type : {0, 5, 255}) {
        auto bytes = encode(sample(Type::ask));
        bytes[4] = static_cast<std::byte>(type);
        const auto refused = decode_service(bytes);
        ASSERT_FALSE(refused) << type;
        EXPECT_EQ(refused.error().code, ErrorCode::protocol);
        EXPECT_NE(refused.error().reason.find(std::to_string(type)), std::string::npos);
    }
}

// Buffers are there for all that may be unanswered at once.
TEST(RdmaServiceMessage, NoneEverWaitsForABuffer) {
    constexpr std::size_t asked_by_the_peer = max_requests;
    constexpr std::size_t answers_to_us = max_requests;
    EXPECT_GE(service_depth, asked_by_the_peer + answers_to_us + max_fences);
}

} // namespace
} // namespace pageferry::rdma
