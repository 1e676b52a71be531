// What is said in the connection manager's private data, and what becomes of strangers.
#include "rdma/handshake.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::rdma {
namespace {

using Bytes = std::vector<std::byte>;

Request sample() {
    Request request{
        .kind = LaneKind::bulk, .index = 3, .lanes = 4, .session = {}, .epoch = 0x01020304, .connection = 0x1122334455667788};
    for (std::size_t i = 0; i < request.session.size(); ++i) {
        request.session[i] = static_cast<std::uint8_t>(i * 17);
    }
    return request;
}

Bytes bytes_of(const Request& request) {
    const auto encoded = encode(request);
    return {encoded.begin(), encoded.end()};
}

ErrorCode code_of(const Bytes& bytes) {
    const auto request = decode_request(bytes);
    return request ? ErrorCode::ok : request.error().code;
}

Bytes with(std::size_t at, std::uint8_t value, Request request = sample()) {
    Bytes bytes = bytes_of(request);
    bytes[at] = std::byte{value};
    return bytes;
}

TEST(RdmaRequest, DecodesToWhatWasEncoded) {
    for (const LaneKind kind : {LaneKind::control, LaneKind::service, LaneKind::bulk, LaneKind::urgent}) {
        Request request = sample();
        request.kind = kind;
        request.index = kind == LaneKind::bulk ? 3 : 0;
        const auto again = decode_request(bytes_of(request));
        ASSERT_TRUE(again) << again.error().to_string();
        EXPECT_EQ(*again, request);
    }
}

TEST(RdmaRequest, IsTheSameBytesOnEveryHost) {
    const Bytes bytes = bytes_of(sample());
    const auto at = [&](std::size_t i) { return std::to_integer<int>(bytes[i]); };
    EXPECT_EQ((std::string{reinterpret_cast<const char*>(bytes.data()), 8}), "PGFRDMA\n");
    EXPECT_EQ(at(8), lowest_version);
    EXPECT_EQ(at(9), highest_version);
    EXPECT_EQ(at(10), 2); // bulk
    EXPECT_EQ(at(11), 3);
    EXPECT_EQ(at(12), 4);
    EXPECT_EQ(at(13) + at(14) + at(15), 0);
    EXPECT_EQ(at(17), 17); // session
    EXPECT_EQ(at(32), 0x04);
    EXPECT_EQ(at(35), 0x01);
    EXPECT_EQ(at(36) + at(37) + at(38) + at(39), 0);
    EXPECT_EQ(at(40), 0x88);
    EXPECT_EQ(at(47), 0x11);
}

TEST(RdmaRequest, MayBePaddedByTheKernel) {
    Bytes bytes = bytes_of(sample());
    bytes.resize(56);
    const auto request = decode_request(bytes);
    ASSERT_TRUE(request) << request.error().to_string();
    EXPECT_EQ(*request, sample());
}

TEST(RdmaRequest, OfAStrangerIsNamedAsOne) {
    EXPECT_EQ(code_of({}), ErrorCode::protocol);
    EXPECT_EQ(code_of(Bytes(56)), ErrorCode::protocol);
    Bytes all_ones(56, std::byte{0xff});
    EXPECT_EQ(code_of(all_ones), ErrorCode::protocol);
    for (std::size_t i = 0; i < 8; ++i) {
        EXPECT_EQ(code_of(with(i, 'x')), ErrorCode::protocol) << i;
    }
    for (std::size_t length = 0; length < request_bytes; ++length) {
        Bytes cut = bytes_of(sample());
        cut.resize(length);
        EXPECT_EQ(code_of(cut), ErrorCode::protocol) << length;
    }
    const auto refused = decode_request(Bytes(56));
    EXPECT_NE(refused.error().reason.find("does not speak Pageferry's protocol"), std::string::npos);
    EXPECT_FALSE(refused.error().remedy.empty());
}

TEST(RdmaRequest, OfOtherVersionsNamesBothRanges) {
    Request newer = sample();
    newer.lowest = highest_version + 6;
    newer.highest = highest_version + 8;
    const auto refused = decode_request(bytes_of(newer));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::version);
    EXPECT_NE(refused.error().reason.find(std::to_string(newer.lowest) + ".." + std::to_string(newer.highest)),
              std::string::npos);
    EXPECT_NE(refused.error().reason.find(std::to_string(lowest_version) + ".." + std::to_string(highest_version)),
              std::string::npos);
    EXPECT_FALSE(refused.error().remedy.empty());

    EXPECT_EQ(code_of(with(9, lowest_version - 1,
                           [] {
                               Request older = sample();
                               older.lowest = 0;
                               return older;
                           }())),
              ErrorCode::version);
    Request wide = sample();
    wide.lowest = 0;
    wide.highest = 255;
    EXPECT_EQ(code_of(bytes_of(wide)), ErrorCode::ok) << "one of them is ours";
}

// A version to come may put anything behind its version bytes: the version is judged first.
TEST(RdmaRequest, OfAnotherVersionIsNotReadFurther) {
    Bytes bytes(56, std::byte{0xff});
    const std::string_view magic{"PGFRDMA\n"};
    std::ranges::transform(magic, bytes.begin(), [](char letter) { return static_cast<std::byte>(letter); });
    bytes[8] = std::byte{7};
    bytes[9] = std::byte{9};
    EXPECT_EQ(code_of(bytes), ErrorCode::version);
}

TEST(RdmaRequest, ThatContradictsItselfIsRefused) {
    EXPECT_EQ(code_of(with(10, 4)), ErrorCode::protocol) << "no such kind";
    EXPECT_EQ(code_of(with(12, 0)), ErrorCode::protocol) << "no lanes";
    EXPECT_EQ(code_of(with(12, plugin::max_lanes + 1)), ErrorCode::protocol) << "too many lanes";
    EXPECT_EQ(code_of(with(11, 4)), ErrorCode::protocol) << "bulk lane 4 of 4";
    EXPECT_EQ(code_of(with(11, 255)), ErrorCode::protocol);
    for (const LaneKind kind : {LaneKind::control, LaneKind::service, LaneKind::urgent}) {
        EXPECT_EQ(code_of(with(10, static_cast<std::uint8_t>(kind))), ErrorCode::protocol)
            << "an index of a " << title_of(kind, 0);
    }
    Request most = sample();
    most.lanes = plugin::max_lanes;
    most.index = plugin::max_lanes - 1;
    EXPECT_EQ(code_of(bytes_of(most)), ErrorCode::ok);
}

std::span<const std::byte> said(const VerdictBytes& verdict) {
    return std::span{verdict.bytes}.first(verdict.length);
}

TEST(RdmaVerdict, DecodesToWhatWasEncoded) {
    const auto taken = decode_verdict(said(encode_verdict(PF_OK, {})));
    ASSERT_TRUE(taken);
    EXPECT_EQ(taken->status, PF_OK);
    EXPECT_EQ(taken->text, "");
    const auto refused = decode_verdict(said(encode_verdict(PF_VERSION, "we speak another language")));
    ASSERT_TRUE(refused);
    EXPECT_EQ(refused->status, PF_VERSION);
    EXPECT_EQ(refused->text, "we speak another language");
}

TEST(RdmaVerdict, MayBePaddedByTheKernel) {
    const VerdictBytes verdict = encode_verdict(PF_REFUSED, "no");
    const auto padded = decode_verdict(verdict.bytes);
    ASSERT_TRUE(padded);
    EXPECT_EQ(padded->text, "no");
}

TEST(RdmaVerdict, TooLongForTheMessageIsCut) {
    const std::string text(1000, 'x');
    const VerdictBytes verdict = encode_verdict(PF_REFUSED, text);
    EXPECT_EQ(verdict.length, 148) << "what a rejection has room for";
    const auto again = decode_verdict(said(verdict));
    ASSERT_TRUE(again);
    EXPECT_EQ(again->text, text.substr(0, verdict_text_max));
}

TEST(RdmaVerdict, CutOnTheWayIsNone) {
    const VerdictBytes verdict = encode_verdict(PF_REFUSED, "a reason");
    for (std::size_t length = 0; length < verdict.length; ++length) {
        EXPECT_FALSE(decode_verdict(said(verdict).first(length))) << length;
    }
    EXPECT_FALSE(decode_verdict({}));
}

TEST(RdmaVerdict, OfAnotherProgramIsNone) {
    VerdictBytes verdict = encode_verdict(PF_REFUSED, "a reason");
    verdict.bytes[0] ^= std::byte{1};
    EXPECT_FALSE(decode_verdict(said(verdict)));
    EXPECT_FALSE(decode_verdict(Bytes(148)));
}

// It is shown to people, on a terminal.
TEST(RdmaVerdict, TextIsMadePrintable) {
    const auto verdict = decode_verdict(said(encode_verdict(PF_REFUSED, "\x1b[2Jred\n\x7f\xc3\xa4 ok")));
    ASSERT_TRUE(verdict);
    EXPECT_EQ(verdict->text, "?[2Jred???? ok");
}

TEST(RdmaLanes, HaveTitlesAndNumbersOfTheirOwn) {
    EXPECT_EQ(title_of(LaneKind::control, 0), "control lane");
    EXPECT_EQ(title_of(LaneKind::service, 0), "service lane");
    EXPECT_EQ(title_of(LaneKind::urgent, 0), "urgent lane");
    EXPECT_EQ(title_of(LaneKind::bulk, 2), "bulk lane 2");
    for (const unsigned lanes : {1U, 2U, 64U}) {
        std::vector<std::uint32_t> numbers{number_of(LaneKind::control, 0, lanes), number_of(LaneKind::service, 0, lanes),
                                           number_of(LaneKind::urgent, 0, lanes)};
        EXPECT_EQ(numbers[0], 0U);
        for (unsigned i = 0; i < lanes; ++i) {
            numbers.push_back(number_of(LaneKind::bulk, i, lanes));
        }
        std::ranges::sort(numbers);
        EXPECT_EQ(std::ranges::adjacent_find(numbers), numbers.end());
        EXPECT_EQ(numbers.back(), lanes + 2) << "without gaps";
    }
}

} // namespace
} // namespace pageferry::rdma
