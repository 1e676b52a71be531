#include "tcp_fallback/wire.h"

#include "transport/abi/pageferry_transport.h"

#include <gtest/gtest.h>

#include <array>

namespace pageferry::tcp {
namespace {

using FrameBytes = std::array<std::byte, frame_bytes>;

FrameBytes bytes_of(const Frame& frame) {
    FrameBytes bytes{};
    encode_frame(frame, bytes);
    return bytes;
}

const Frame data_frame{.type = FrameType::data, .count = 3, .number = 0, .first = {.offset = 0x1000, .block = 7, .length = 4096}};

TEST(Wire, FramesComeBackAsTheyWere) {
    for (const Frame& frame : {data_frame, Frame{.type = FrameType::pull, .count = 64, .number = 1ULL << 40U, .first = {1, 2, 3}},
                               Frame{.type = FrameType::pulled,
                                     .count = 1,
                                     .number = 9,
                                     .first = {UINT64_MAX - max_piece_bytes, UINT32_MAX, max_piece_bytes}},
                               Frame{.type = FrameType::fence, .count = 0, .number = UINT64_MAX, .first = {}},
                               Frame{.type = FrameType::fenced, .count = 0, .number = 1, .first = {}}}) {
        const auto back = decode_frame(bytes_of(frame));
        ASSERT_TRUE(back) << back.error().to_string();
        EXPECT_EQ(*back, frame);
    }
}

TEST(Wire, IntegersAreLittleEndian) {
    const FrameBytes bytes = bytes_of(data_frame);
    EXPECT_EQ(bytes[0], std::byte{'P'});
    EXPECT_EQ(bytes[1], std::byte{'F'});
    EXPECT_EQ(bytes[2], std::byte{1});
    EXPECT_EQ(bytes[4], std::byte{3});
    EXPECT_EQ(bytes[17], std::byte{0x10});
    EXPECT_EQ(bytes[24], std::byte{7});
    EXPECT_EQ(bytes[29], std::byte{0x10});
}

TEST(Wire, FramesOutOfTheRulesAreRefused) {
    FrameBytes bytes = bytes_of(data_frame);
    bytes[0] = std::byte{0};
    EXPECT_FALSE(decode_frame(bytes)) << "magic";
    bytes = bytes_of(data_frame);
    bytes[3] = std::byte{1};
    EXPECT_FALSE(decode_frame(bytes)) << "reserved";
    for (const int type : {0, 6, 255}) {
        bytes = bytes_of(data_frame);
        bytes[2] = static_cast<std::byte>(type);
        EXPECT_FALSE(decode_frame(bytes)) << type;
    }
    Frame frame = data_frame;
    frame.count = 0;
    EXPECT_FALSE(decode_frame(bytes_of(frame)));
    frame.count = max_pieces + 1;
    EXPECT_FALSE(decode_frame(bytes_of(frame)));
    frame = data_frame;
    frame.first.length = 0;
    EXPECT_FALSE(decode_frame(bytes_of(frame)));
    frame.first.length = max_piece_bytes + 1;
    EXPECT_FALSE(decode_frame(bytes_of(frame)));
    frame.first = {.offset = UINT64_MAX - 4095, .block = 0, .length = 4096};
    EXPECT_FALSE(decode_frame(bytes_of(frame))) << "ends beyond 2^64";
    EXPECT_FALSE(decode_frame(bytes_of(Frame{.type = FrameType::fence, .count = 1, .number = 1, .first = {}})));
}

TEST(Wire, ControlHeadersKeepTheLengthInRange) {
    std::array<std::byte, control_header_bytes> bytes{};
    for (const std::uint32_t length : {1U, 77U, PF_CONTROL_MAX}) {
        encode_control_header(length, bytes);
        EXPECT_EQ(decode_control_header(bytes).value_or(0), length);
    }
    for (const std::uint32_t length : {0U, PF_CONTROL_MAX + 1}) {
        encode_control_header(length, bytes);
        EXPECT_FALSE(decode_control_header(bytes));
    }
    encode_control_header(1, bytes);
    bytes[0] = std::byte{0};
    EXPECT_FALSE(decode_control_header(bytes));
}

} // namespace
} // namespace pageferry::tcp
