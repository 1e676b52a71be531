#include "monitor/json_stream.h"
#include "monitor/qmp_message.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <array>

namespace pageferry::monitor {
namespace {

// Values as they are, errors in angle brackets.
std::vector<std::string> cut(std::string_view bytes, std::size_t piece = std::string_view::npos, JsonLimits limits = {}) {
    JsonStream stream{limits};
    for (std::size_t at = 0; at < bytes.size(); at += std::min(piece, bytes.size())) {
        stream.feed(bytes.substr(at, piece));
    }
    std::vector<std::string> out;
    while (auto frame = stream.next()) {
        out.push_back(frame->error.empty() ? frame->text : "<" + frame->error + ">");
    }
    return out;
}

using List = std::vector<std::string>;

TEST(JsonStream, CutsWhereMessagesEndAndKeepsTheirBytes) {
    const std::string text = "  {\"a\" :  [1, {\"b\":\"}{\\\"\"}]}\r\n{'single': 'it\\'s {'}{}[]\n 12 true\n\"x\" -0.5e+3 ";
    const List want{"{\"a\" :  [1, {\"b\":\"}{\\\"\"}]}", "{'single': 'it\\'s {'}", "{}", "[]", "12", "true", "\"x\"", "-0.5e+3"};
    for (std::size_t piece = 1; piece <= text.size(); ++piece) {
        EXPECT_EQ(cut(text, piece), want) << piece;
    }
}

TEST(JsonStream, GarbageIsAnErrorAndTheNextMessageIsRead) {
    EXPECT_EQ(cut("@bogus {\"a\":1}"), (List{"<JSON parse error, stray '@'>", "{\"a\":1}"}));
    EXPECT_EQ(cut("{\"a\": 01}\n{}"), (List{"<JSON parse error, stray '01'>", "}", "{}"}));
    EXPECT_EQ(cut("{\"a\": -x}\n{}"), (List{"<JSON parse error, stray '-x'>", "}", "{}"}));
    EXPECT_EQ(cut("{\"a\nb\n{}").back(), "{}");
}

TEST(JsonStream, ByteFfEndsWhateverWasBegun) {
    EXPECT_EQ(cut("{\"execute\": [1, 2\xff{\"a\":1}").back(), "{\"a\":1}");
    EXPECT_EQ(cut("{\"unclosed string \xff{\"a\":1}").back(), "{\"a\":1}");
    EXPECT_EQ(cut("\xff").size(), 1U);
}

TEST(JsonStream, WhatClosesTooMuchIsAMessageForTheParserToRefuse) {
    EXPECT_EQ(cut("}{]{}"), (List{"}", "{]", "{}"}));
}

TEST(JsonStream, LimitsAreErrorsAndEndTheMessage) {
    const JsonLimits limits{.bytes = 20, .tokens = 6, .nesting = 3};
    EXPECT_EQ(cut("{\"0123456789012345678901\"", 1, limits).front(), "<JSON token size limit exceeded>");
    EXPECT_EQ(cut("{                     ", 1, limits).front(), "<JSON token size limit exceeded>");
    EXPECT_EQ(cut("[1,1,1,1]", 1, limits).front(), "<JSON token count limit exceeded>");
    EXPECT_EQ(cut("[[[[", 1, limits).front(), "<JSON nesting depth limit exceeded>");
    EXPECT_EQ(cut(std::string(1025, '[')).front(), "<JSON nesting depth limit exceeded>");
}

TEST(JsonStream, DescriptorsGoWithTheMessageThatEndsNext) {
    JsonStream stream;
    std::array<int, 2> pipe{};
    ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
    stream.feed("{}{\"a\":");
    std::vector<Fd> fds;
    fds.emplace_back(pipe[0]);
    fds.emplace_back(pipe[1]);
    stream.feed("1", std::move(fds));
    EXPECT_TRUE(stream.in_message());
    stream.feed("}{}");
    EXPECT_TRUE(stream.next()->fds.empty());
    EXPECT_EQ(stream.next()->fds.size(), 2U);
    EXPECT_TRUE(stream.next()->fds.empty());
    EXPECT_EQ(::fcntl(pipe[0], F_GETFD), -1) << "closed with the message it came with";
}

// Text and words: what QEMU 7.2 answered to these.
TEST(ParseRequest, SaysWhatQemuSays) {
    const std::vector<std::pair<std::string, std::string>> cases{
        {"{\"execute\": nope}", "invalid keyword 'nope'"},
        {"}", "expecting value"},
        {"{]", "expecting value"},
        {"{\"a\" 1}", "missing : in object pair"},
        {"{\"a\":1,\"a\":2}", "duplicate key"},
        {"{\"a\":1,}", "expecting value"},
        {"{5:1}", "key is not a string in object"},
        {"{\"a\":1 2}", "expected separator in dict"},
        {"[1 2]", "expected separator in list"},
        {"\"\\q\"", "invalid escape sequence in string"},
        {"\"\\ud800\"", "\\ud800 is not a valid Unicode character"},
        {"\"\xc3\"", "invalid UTF-8 sequence in string"},
    };
    for (const auto& [text, words] : cases) {
        const auto parsed = parse_request(text);
        ASSERT_FALSE(parsed.has_value()) << text;
        EXPECT_EQ(parsed.error(), "JSON parse error, " + words) << text;
    }
}

TEST(ParseRequest, ReadsWhatALibraryReads) {
    for (const std::string text :
         {R"({"a":[1,-2,18446744073709551615,1.5e3,true,false,null,"x\u00e9\ud83d\ude00\n"],"b":{}})", R"("é")", "[]", "-0"}) {
        const auto parsed = parse_request(text);
        ASSERT_TRUE(parsed.has_value()) << text;
        EXPECT_EQ(*parsed, nlohmann::json::parse(text)) << text;
    }
    EXPECT_EQ(*parse_request(R"({'it\'s': 'a"b'})"), nlohmann::json({{"it's", "a\"b"}}));
    EXPECT_FALSE(parse_request("1e999").has_value());
}

} // namespace
} // namespace pageferry::monitor
