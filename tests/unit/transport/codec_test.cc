#include "transport/session/messages.h"
#include "transport/session/text.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>

namespace pageferry::transport::session {
namespace {

using Bytes = std::vector<std::byte>;

Bytes some_bytes(std::size_t size) {
    Bytes bytes(size);
    for (std::size_t i = 0; i < size; ++i) {
        bytes[i] = static_cast<std::byte>(i * 7);
    }
    return bytes;
}

SessionId some_session() {
    SessionId session{};
    for (std::size_t i = 0; i < session.size(); ++i) {
        session[i] = static_cast<std::uint8_t>(0xf0 + i);
    }
    return session;
}

// One of each type at least, with small, large and odd contents.
std::vector<Message> samples() {
    constexpr std::uint64_t big = 0xfedcba9876543210;
    std::vector<RamTableEntry> table{{.block = 0, .name = "pc.ram", .length = 4ULL << 30U, .page_size = 4096},
                                     {.block = 7, .name = "/objects/mem-é", .length = 2ULL << 20U, .page_size = 2ULL << 20U}};
    return {
        Hello{.version_min = 1,
              .version_max = 0xffff,
              .session = some_session(),
              .epoch = 0x01020304,
              .role = Role::destination,
              .features = big,
              .software = "pageferry 0.1.0"},
        Hello{},
        HelloReply{.version = 1, .session = some_session(), .epoch = 9, .role = Role::source, .features = 1, .software = ""},
        RamTable{},
        RamTable{table},
        DataExtents{.block = 7, .last = true, .ranges = {{.offset = 0, .length = 4096}, {.offset = big, .length = 1}}},
        DataExtents{},
        Discard{.block = 1, .last = false, .ranges = {{.offset = 4096, .length = 8192}}},
        DiscardDone{},
        RoundEnd{.round = 3, .bytes = big},
        DeviceState{some_bytes(max_payload)},
        DeviceState{},
        Switchover{},
        RamFinal{.device_state_bytes = big},
        RamFinal{.device_state_bytes = 1, .postcopy = true},
        DeviceLoaded{},
        Permit{.running = false},
        Permit{},
        Running{},
        Goodbye{},
        Failure{.code = ErrorCode::resources, .text = "no room in /dev/shm;\n\tfree some"},
        Heartbeat{},
        Delivered{.block = 0x01020304, .first_page = big, .pages = big + 1, .words = {big, 0, ~0ULL}},
        Delivered{.block = 1, .first_page = 64, .pages = max_words * 64, .words = std::vector<std::uint64_t>(max_words, 1)},
        Delivered{},
        PullLimit{.bytes_per_second = big},
        PullProgress{.missing = big, .pulled = big + 1, .requests = big + 2},
        Resume{.runs = true, .missing = big},
        Resume{},
        Received{},
    };
}

Bytes encoded(const Message& message) {
    auto bytes = encode(message);
    EXPECT_TRUE(bytes) << name_of(message) << (bytes ? "" : bytes.error().to_string());
    return bytes.value_or(Bytes{});
}

Error refused(std::span<const std::byte> bytes) {
    auto message = decode(bytes);
    EXPECT_FALSE(message);
    return message ? Error{} : message.error();
}

bool holds(const Error& error, std::string_view words) {
    return error.to_string().find(words) != std::string::npos;
}

void poke32(Bytes& bytes, std::size_t at, std::uint32_t value) {
    for (std::size_t i = 0; i < 4; ++i) {
        bytes[at + i] = static_cast<std::byte>((value >> (8 * i)) & 0xffU);
    }
}

TEST(Codec, SamplesHoldEveryType) {
    std::set<std::size_t> types;
    for (const Message& message : samples()) {
        types.insert(message.index());
    }
    EXPECT_EQ(types.size(), std::variant_size_v<Message>);
}

TEST(Codec, EveryMessageComesBack) {
    for (const Message& message : samples()) {
        const Bytes bytes = encoded(message);
        EXPECT_LE(bytes.size(), PF_CONTROL_MAX);
        const auto back = decode(bytes);
        ASSERT_TRUE(back) << name_of(message) << ": " << back.error().to_string();
        EXPECT_EQ(*back, message) << name_of(message);
    }
}

// The bytes on the wire are a promise to other releases: they change only with the version.
TEST(Codec, LayoutIsFixed) {
    const Bytes bytes = encoded(RoundEnd{.round = 2, .bytes = 0x0102030405060708});
    constexpr unsigned char expected[] = {'P', 'F', 'R', 'Y', 7, 0, 0, 0, 16, 0, 0, 0, 2, 0,
                                          0,   0,   0,   0,   0, 0, 8, 7, 6,  5, 4, 3, 2, 1};
    ASSERT_EQ(bytes.size(), sizeof expected);
    EXPECT_EQ(std::memcmp(bytes.data(), expected, sizeof expected), 0);
    EXPECT_EQ(encoded(Hello{}).size(), 12U + 2 + 2 + 16 + 4 + 1 + 8 + 2);
    EXPECT_EQ(encoded(Heartbeat{}).size(), 12U);
    EXPECT_EQ(encoded(RamFinal{}).size(), 12U + 8 + 1);
    EXPECT_EQ(encoded(Delivered{.block = 1, .first_page = 2, .pages = 3, .words = {4, 5}}).size(), 12U + 4 + 8 + 8 + 4 + 2 * 8);
    EXPECT_EQ(encoded(PullLimit{}).size(), 12U + 8);
    EXPECT_EQ(encoded(PullProgress{}).size(), 12U + 8 + 8 + 8);
    EXPECT_EQ(encoded(Resume{}).size(), 12U + 1 + 8);
    EXPECT_EQ(encoded(Received{}).size(), 12U);
}

TEST(Codec, TypesOfAPostcopyHaveTheirNumbers) {
    unsigned type = 18; // docs/protocol.md
    for (const Message& message :
         {Message{Delivered{}}, Message{PullLimit{}}, Message{PullProgress{}}, Message{Resume{}}, Message{Received{}}}) {
        EXPECT_EQ(std::to_integer<unsigned>(encoded(message)[4]), type++) << name_of(message);
    }
}

TEST(Codec, EveryTruncationIsRefused) {
    for (const Message& message : samples()) {
        const Bytes bytes = encoded(message);
        const std::size_t step = bytes.size() > 4096 ? 997 : 1;
        for (std::size_t size = 0; size < bytes.size(); size += step) {
            // A copy of just that size, so that a sanitizer sees a read beyond it.
            Bytes cut{bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)};
            EXPECT_EQ(refused(cut).code, ErrorCode::protocol) << name_of(message) << " cut to " << size;
            if (size >= 12) { // with a header that fits, so that the body's own checks see it
                poke32(cut, 8, static_cast<std::uint32_t>(size - 12));
                EXPECT_EQ(refused(cut).code, ErrorCode::protocol) << name_of(message) << " shortened to " << size;
            }
        }
    }
}

TEST(Codec, BytesThatFollowAreRefused) {
    for (const Message& message : samples()) {
        Bytes bytes = encoded(message);
        bytes.push_back(std::byte{0});
        EXPECT_TRUE(holds(refused(bytes), "announces")) << name_of(message);
        poke32(bytes, 8, static_cast<std::uint32_t>(bytes.size() - 12));
        EXPECT_TRUE(holds(refused(bytes), "follow its last field")) << name_of(message);
    }
}

// A flipped bit is refused or is another message; what is accepted means exactly its bytes.
TEST(Codec, FlippedBitsAreRefusedOrAnotherMessage) {
    for (const Message& message : samples()) {
        Bytes bytes = encoded(message);
        const std::size_t bits = std::min<std::size_t>(bytes.size(), bytes.size() > 4096 ? 16 : 400) * 8;
        for (std::size_t bit = 0; bit < bits; ++bit) {
            bytes[bit / 8] ^= std::byte{1} << (bit % 8);
            if (const auto other = decode(bytes)) {
                EXPECT_FALSE(*other == message);
                EXPECT_EQ(encoded(*other), bytes) << name_of(message) << " bit " << bit;
            }
            bytes[bit / 8] ^= std::byte{1} << (bit % 8);
        }
    }
}

TEST(Codec, NoiseIsRefusedOrAnotherMessage) {
    std::mt19937_64 random{20260101};
    const std::vector<Message> some = samples();
    for (int round = 0; round < 20'000; ++round) {
        Bytes bytes = encoded(some[random() % 10]);
        for (int i = 0; i < 3; ++i) {
            bytes[random() % bytes.size()] = static_cast<std::byte>(random());
        }
        if (const auto message = decode(bytes)) {
            EXPECT_EQ(encoded(*message), bytes);
        }
    }
}

TEST(Codec, CountsTheBytesCannotHoldAreRefused) {
    Bytes extents = encoded(DataExtents{.block = 0, .last = false, .ranges = {{.offset = 0, .length = 1}}});
    poke32(extents, 12 + 5, 2);
    EXPECT_TRUE(holds(refused(extents), "2 ranges cannot be in the 16 bytes"));
    poke32(extents, 12 + 5, 0xffffffff);
    EXPECT_TRUE(holds(refused(extents), "4294967295 ranges, at most 2048"));
    Bytes table = encoded(RamTable{});
    poke32(table, 12, 128);
    EXPECT_TRUE(holds(refused(table), "128 RAM blocks cannot be in the 0 bytes"));
    Bytes state = encoded(DeviceState{some_bytes(8)});
    poke32(state, 12, 9);
    EXPECT_TRUE(holds(refused(state), "DeviceState"));
    Bytes delivered = encoded(Delivered{.block = 0, .first_page = 0, .pages = 64, .words = {1}});
    poke32(delivered, 12 + 20, 2);
    EXPECT_TRUE(holds(refused(delivered), "2 words cannot be in the 8 bytes"));
    poke32(delivered, 12 + 20, max_words + 1);
    EXPECT_TRUE(holds(refused(delivered), "7681 words, at most 7680"));
}

TEST(Codec, BadValuesAreRefused) {
    Bytes hello = encoded(Hello{});
    hello[12 + 24] = std::byte{3};
    EXPECT_TRUE(holds(refused(hello), "role 3 is not known"));
    hello = encoded(Hello{.version_min = 2, .version_max = 2});
    hello[12 + 2] = std::byte{1};
    EXPECT_TRUE(holds(refused(hello), "versions 2 to 1 are no range"));
    Bytes discard = encoded(Discard{});
    discard[12 + 4] = std::byte{2};
    EXPECT_TRUE(holds(refused(discard), "last is neither 0 nor 1"));
    Bytes final = encoded(RamFinal{});
    final.back() = std::byte{2};
    EXPECT_TRUE(holds(refused(final), "postcopy is neither 0 nor 1"));
    Bytes resume = encoded(Resume{});
    resume[12] = std::byte{0xff};
    EXPECT_TRUE(holds(refused(resume), "runs is neither 0 nor 1"));
    for (const std::uint32_t code : {0U, 1U, 18U, 0x80000002U}) {
        Bytes failure = encoded(Failure{.code = ErrorCode::io, .text = "x"});
        poke32(failure, 12, code);
        EXPECT_TRUE(holds(refused(failure), "error code")) << code;
    }
    Bytes failure = encoded(Failure{.code = ErrorCode::io, .text = "x"});
    failure.back() = std::byte{0x1b};
    EXPECT_TRUE(holds(refused(failure), "not plain UTF-8"));
}

TEST(Codec, HeaderErrorsNameWhatIsWrong) {
    EXPECT_TRUE(holds(refused({}), "0 bytes"));
    Bytes bytes = encoded(Heartbeat{});
    bytes[4] = std::byte{200};
    EXPECT_TRUE(holds(refused(bytes), "message type 200 is not known"));
    bytes[4] = std::byte{0};
    EXPECT_TRUE(holds(refused(bytes), "message type 0 is not known"));
    bytes[6] = std::byte{1};
    EXPECT_TRUE(holds(refused(bytes), "unknown flags 1"));
    const std::string http = "GET / HTTP/1.1\r\n";
    EXPECT_TRUE(holds(refused(std::as_bytes(std::span{http})), "47455420"));
}

TEST(Codec, PlainQemuIsNamed) {
    const std::string stream{"QEVM\0\0\0\3", 8};
    const std::string multifd{"\x11\x22\x33\x44\0\0\0\1 and more than a header", 32};
    for (const std::string& text : {stream, multifd, stream.substr(0, 4)}) {
        const Error error = refused(std::as_bytes(std::span{text}));
        EXPECT_EQ(error.code, ErrorCode::protocol);
        EXPECT_TRUE(holds(error, "the peer is plain QEMU"));
    }
}

TEST(Codec, LimitsHoldForTheSenderToo) {
    const auto code = [](const Message& message) {
        auto bytes = encode(message);
        return bytes ? ErrorCode::ok : bytes.error().code;
    };
    EXPECT_EQ(code(DeviceState{Bytes(max_payload + 1)}), ErrorCode::invalid_argument);
    EXPECT_EQ(code(Delivered{.words = std::vector<std::uint64_t>(max_words + 1)}), ErrorCode::invalid_argument);
    std::vector<Range> ranges(max_ranges, Range{.offset = 0, .length = 1});
    EXPECT_EQ(code(Discard{.block = 0, .last = true, .ranges = ranges}), ErrorCode::ok);
    ranges.push_back({.offset = 0, .length = 1});
    EXPECT_EQ(code(Discard{.block = 0, .last = true, .ranges = ranges}), ErrorCode::invalid_argument);
    const auto block = [](std::string name, std::uint64_t length, std::uint64_t page) {
        return RamTable{{{.block = 0, .name = std::move(name), .length = length, .page_size = page}}};
    };
    EXPECT_EQ(code(block(std::string(255, 'n'), 4096, 4096)), ErrorCode::ok);
    EXPECT_EQ(code(block(std::string(256, 'n'), 4096, 4096)), ErrorCode::invalid_argument);
    EXPECT_EQ(code(block("", 4096, 4096)), ErrorCode::invalid_argument);
    EXPECT_EQ(code(block("a\nb", 4096, 4096)), ErrorCode::invalid_argument);
    EXPECT_EQ(code(block("a", 4097, 4096)), ErrorCode::invalid_argument);
    EXPECT_EQ(code(block("a", 0, 4096)), ErrorCode::invalid_argument);
    EXPECT_EQ(code(block("a", 4096, 0)), ErrorCode::invalid_argument);
    EXPECT_EQ(code(block("a", 4096, 4095)), ErrorCode::invalid_argument);
    EXPECT_EQ(code(Discard{.block = 0, .last = true, .ranges = {{.offset = 5, .length = 0}}}), ErrorCode::invalid_argument);
    EXPECT_EQ(code(Discard{.block = 0, .last = true, .ranges = {{.offset = ~0ULL, .length = 1}}}), ErrorCode::invalid_argument);
    EXPECT_EQ(code(Failure{.code = ErrorCode::ok, .text = ""}), ErrorCode::invalid_argument);
}

TEST(Codec, TheLargestTableFits) {
    RamTable table;
    for (std::uint32_t i = 0; i < max_blocks; ++i) {
        std::string name(max_name, 'n');
        name.replace(0, 3, std::to_string(100 + i));
        table.blocks.push_back({.block = i, .name = std::move(name), .length = 4096, .page_size = 4096});
    }
    EXPECT_LE(encoded(table).size(), PF_CONTROL_MAX);
    table.blocks[5].block = 4;
    EXPECT_TRUE(holds(encode(table).error(), "block number 4 twice"));
    table.blocks[5].block = 5;
    table.blocks[5].name = table.blocks[4].name;
    EXPECT_TRUE(holds(encode(table).error(), "twice"));
    table.blocks.resize(max_blocks + 1);
    EXPECT_FALSE(encode(table));
}

TEST(Codec, ATextForPeopleIsCutAndCleanedNotRefused) {
    const std::string text = "bad \xff file\x01 " + std::string(3 * max_text, 'x');
    const auto back = decode(encoded(Failure{.code = ErrorCode::io, .text = text}));
    ASSERT_TRUE(back);
    const std::string& got = std::get<Failure>(*back).text;
    EXPECT_EQ(got.size(), max_text);
    EXPECT_TRUE(got.starts_with("bad ? file? xxx"));
}

TEST(Text, CleanIsUtf8WithoutControlCharacters) {
    for (const char* text : {"", "plain", "é", "€", "😀", "\u00a0"}) {
        EXPECT_TRUE(is_clean(text, false)) << text;
    }
    for (const char* text : {"\x7f", "\x1b", "\xc3", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                             "\xf5\x80\x80\x80", "\x80", "\xc2\x80", "\xe2\x82"}) {
        EXPECT_FALSE(is_clean(text, true)) << testing::PrintToString(std::string{text});
        EXPECT_TRUE(is_clean(cleaned(text, 10), true));
    }
    EXPECT_FALSE(is_clean("a\nb", false));
    EXPECT_TRUE(is_clean("a\nb", true));
    EXPECT_EQ(cleaned("a€", 3), "a"); // never half a character
    EXPECT_EQ(cleaned("a€", 4), "a€");
}

} // namespace
} // namespace pageferry::transport::session
