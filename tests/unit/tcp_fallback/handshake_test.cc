#include "tcp_fallback/handshake.h"

#include <gtest/gtest.h>

#include <array>
#include <string_view>
#include <vector>

namespace pageferry::tcp {
namespace {

std::vector<std::byte> bytes_of(std::string_view text) {
    std::vector<std::byte> bytes;
    for (const char letter : text) {
        bytes.push_back(static_cast<std::byte>(letter));
    }
    return bytes;
}

Preamble some_preamble() {
    Preamble preamble{
        .version = 1, .kind = LaneKind::bulk, .index = 3, .lanes = 4, .connection = {}, .session = {}, .epoch = 0x01020304};
    preamble.connection.fill(0xaa);
    preamble.session.fill(0x55);
    return preamble;
}

std::array<std::byte, preamble_bytes> bytes_of(const Preamble& preamble) {
    std::array<std::byte, preamble_bytes> bytes{};
    encode_preamble(preamble, bytes);
    return bytes;
}

TEST(Handshake, GreetingAndPreambleComeBackAsTheyWere) {
    std::array<std::byte, greeting_bytes> bytes{};
    encode_greeting({.lowest = 2, .highest = 300}, bytes);
    EXPECT_EQ(decode_greeting(bytes).value(), (Greeting{.lowest = 2, .highest = 300}));
    EXPECT_EQ(decode_preamble(bytes_of(some_preamble())).value(), some_preamble());
}

TEST(Handshake, TheHighestCommonVersionIsChosen) {
    EXPECT_EQ(choose_version({.lowest = 1, .highest = 9}).value(), highest_version);
    const auto none = choose_version({.lowest = 7, .highest = 9});
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code, ErrorCode::version);
    EXPECT_NE(none.error().reason.find("7..9"), std::string::npos);
    EXPECT_EQ(decode_greeting(std::array<std::byte, greeting_bytes>{}).error().code, ErrorCode::protocol);
}

TEST(Handshake, APreambleThatContradictsItselfIsRefused) {
    Preamble preamble = some_preamble();
    preamble.index = 4;
    EXPECT_FALSE(decode_preamble(bytes_of(preamble))) << "fifth of four lanes";
    preamble = some_preamble();
    preamble.lanes = 0;
    EXPECT_FALSE(decode_preamble(bytes_of(preamble)));
    preamble.lanes = max_lanes + 1;
    EXPECT_FALSE(decode_preamble(bytes_of(preamble)));
    preamble = some_preamble();
    preamble.kind = LaneKind::control; // with index 3
    EXPECT_FALSE(decode_preamble(bytes_of(preamble)));
    preamble = some_preamble();
    preamble.version = 99;
    EXPECT_EQ(decode_preamble(bytes_of(preamble)).error().code, ErrorCode::version);
}

TEST(Handshake, StrangersAreNamedByTheirFirstBytes) {
    EXPECT_NE(name_stranger(bytes_of("QEVM\0\0\0\3")).value_or("").find("QEMU"), std::string::npos);
    EXPECT_NE(name_stranger(bytes_of("\x11\x22\x33\x44")).value_or("").find("multifd"), std::string::npos);
    EXPECT_TRUE(name_stranger(bytes_of("GET / HTTP/1.1\r\n")));
    EXPECT_FALSE(name_stranger(bytes_of("")));
    EXPECT_FALSE(name_stranger(bytes_of("PGF"))) << "may still become a preamble";
    EXPECT_FALSE(name_stranger(bytes_of(some_preamble())));
    EXPECT_FALSE(name_stranger(bytes_of("QEV"))) << "too early to say who";
}

TEST(Handshake, AVerdictCarriesItsWords) {
    const auto bytes = encode_verdict(PF_REFUSED, "no");
    const auto verdict = decode_verdict(bytes).value();
    EXPECT_EQ(verdict.status, PF_REFUSED);
    ASSERT_EQ(verdict.text_length, 2);
    EXPECT_EQ(printable(std::span{bytes}.subspan(verdict_bytes)), "no");
    EXPECT_EQ(encode_verdict(PF_REFUSED, std::string(9999, 'x')).size(), verdict_bytes + verdict_text_max);
    EXPECT_FALSE(decode_verdict(std::array<std::byte, verdict_bytes>{}));
    EXPECT_EQ(printable(bytes_of("a\x1b[31m\n")), "a?[31m?");
}

} // namespace
} // namespace pageferry::tcp
