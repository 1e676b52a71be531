// The messages between the monitor process and its mover, as values.
#include "hypervisor/link/messages.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <utility>

namespace pageferry::hypervisor {
namespace {

using nlohmann::json;

// No field has the value it has by default.
MoverStart some_start() {
    MoverStart start;
    start.side = statemachine::Side::destination;
    start.uris = {"rdma:[fe80::1%eth0]:4444?lanes=3", "tcp:h:1"};
    for (std::size_t i = 0; i < start.session.size(); ++i) {
        start.session[i] = static_cast<std::uint8_t>(0xf1 - 13 * i);
    }
    start.lanes = 3;
    start.dead_peer = std::chrono::milliseconds{1234};
    start.connect_timeout = std::chrono::milliseconds{56789};
    start.pause_before_switchover = true;
    start.postcopy = true;
    start.again = true;
    start.status = statemachine::Status::postcopy_recover_setup;
    start.epoch = std::numeric_limits<std::uint32_t>::max();
    start.guest_runs = false;
    start.transport_path = {"/opt/a b", "/opt/\"c\""};
    start.blocks = {{.name = "pc.ram", .length = 1ULL << 40U, .page_size = 2U << 20U, .file_offset = 4096, .guest_address = 1},
                    {.name = "/objects/ram1",
                     .length = 8192,
                     .page_size = 4096,
                     .file_offset = 1ULL << 63U,
                     .guest_address = std::numeric_limits<std::uint64_t>::max()}};
    start.has_userfaultfd = true;
    start.has_pagemap = true;
    start.has_clear_refs = true;
    start.has_discards = true;
    start.has_page_map = true;
    start.faults = most_faults;
    start.vcpu_threads = {1, std::numeric_limits<std::uint32_t>::max(), 0, 1};
    start.no_pinning = "virtio-mem-pci (\"vm0\")";
    return start;
}

// As it comes out of the other end of the link.
json over_the_link(const json& message) {
    return json::parse(message.dump());
}

void expect_same(const MoverStart& a, const MoverStart& b) {
    EXPECT_EQ(a.side, b.side);
    EXPECT_EQ(a.uris, b.uris);
    EXPECT_EQ(a.session, b.session);
    EXPECT_EQ(a.lanes, b.lanes);
    EXPECT_EQ(a.dead_peer, b.dead_peer);
    EXPECT_EQ(a.connect_timeout, b.connect_timeout);
    EXPECT_EQ(a.pause_before_switchover, b.pause_before_switchover);
    EXPECT_EQ(a.postcopy, b.postcopy);
    EXPECT_EQ(a.again, b.again);
    EXPECT_EQ(a.status, b.status);
    EXPECT_EQ(a.epoch, b.epoch);
    EXPECT_EQ(a.guest_runs, b.guest_runs);
    EXPECT_EQ(a.transport_path, b.transport_path);
    EXPECT_EQ(a.has_userfaultfd, b.has_userfaultfd);
    EXPECT_EQ(a.has_pagemap, b.has_pagemap);
    EXPECT_EQ(a.has_discards, b.has_discards);
    EXPECT_EQ(a.has_page_map, b.has_page_map);
    EXPECT_EQ(a.faults, b.faults);
    EXPECT_EQ(a.vcpu_threads, b.vcpu_threads);
    EXPECT_EQ(a.no_pinning, b.no_pinning);
    EXPECT_EQ(a.has_clear_refs, b.has_clear_refs);
    ASSERT_EQ(a.blocks.size(), b.blocks.size());
    for (std::size_t i = 0; i < a.blocks.size(); ++i) {
        EXPECT_EQ(a.blocks[i].name, b.blocks[i].name);
        EXPECT_EQ(a.blocks[i].length, b.blocks[i].length);
        EXPECT_EQ(a.blocks[i].page_size, b.blocks[i].page_size);
        EXPECT_EQ(a.blocks[i].file_offset, b.blocks[i].file_offset);
        EXPECT_EQ(a.blocks[i].guest_address, b.blocks[i].guest_address);
    }
}

void expect_round_trip(const MoverStart& start) {
    const auto read = mover_start_from(over_the_link(to_json(start)));
    ASSERT_TRUE(read) << read.error().to_string();
    expect_same(*read, start);
}

TEST(MoverStart, ComesOverTheLinkWithEveryField) {
    expect_round_trip(some_start());
}

TEST(MoverStart, ComesOverTheLinkWithWhatIsThereByDefault) {
    MoverStart start;
    start.uris = {"tcp:host:4444"};
    start.blocks = {{.name = "pc.ram", .length = 4096}};
    expect_round_trip(start);
}

TEST(MoverStart, EachFlagIsItsOwn) {
    for (const auto flag : {&MoverStart::pause_before_switchover, &MoverStart::postcopy, &MoverStart::again,
                            &MoverStart::guest_runs, &MoverStart::has_userfaultfd, &MoverStart::has_pagemap,
                            &MoverStart::has_clear_refs, &MoverStart::has_discards, &MoverStart::has_page_map}) {
        MoverStart start = some_start();
        start.*flag = !(start.*flag);
        expect_round_trip(start);
    }
}

TEST(MoverStart, EveryStatusComesOverTheLink) {
    for (std::size_t number = 0; number < statemachine::status_count; ++number) {
        MoverStart start = some_start();
        start.status = static_cast<statemachine::Status>(number);
        expect_round_trip(start);
    }
}

TEST(MoverStart, OneThatGoesOnNeedsItsBlocksToo) {
    MoverStart start = some_start();
    ASSERT_TRUE(start.again);
    start.blocks.clear();
    EXPECT_FALSE(mover_start_from(over_the_link(to_json(start))));
}

TEST(MoverStart, AsManyProcessorsAsAGuestMayHaveAreNamed) {
    MoverStart start = some_start();
    start.vcpu_threads.assign(most_vcpus, 7);
    expect_round_trip(start);
    start.vcpu_threads.push_back(7);
    EXPECT_FALSE(mover_start_from(over_the_link(to_json(start))));
}

TEST(MoverStart, IsRefusedWithoutWhatItNeeds) {
    for (const char* field : {"type", "side", "uris", "session", "lanes", "dead-peer-ms", "blocks"}) {
        json message = over_the_link(to_json(some_start()));
        ASSERT_EQ(message.erase(field), 1U) << field;
        const auto read = mover_start_from(message);
        ASSERT_FALSE(read) << field;
        EXPECT_EQ(read.error().code, ErrorCode::protocol) << field;
    }
    EXPECT_FALSE(mover_start_from(json::object()));
}

TEST(MoverStart, IsRefusedWithAWrongValueInWhatItNeeds) {
    const std::vector<std::pair<const char*, std::vector<json>>> wrong{
        {"type", {"", "Start", "start ", "status", 1, nullptr, json::array({"start"})}},
        {"side", {"", 0, true, nullptr, json::array({"source"}), json::object()}},
        {"uris",
         {"", 1, nullptr, "tcp:host:1", json::object(), json::array(), json::array({""}), json::array({"tcp:h:1", 1}),
          json::array({std::string(1025, 'u')}), json(std::vector<std::string>(most_candidates + 1, "tcp:h:1"))}},
        {"session", {"", "00", 0, nullptr, std::string(31, '0'), std::string(33, '0'), std::string(31, '0') + "g"}},
        {"lanes", {0, -1, 2.0, "2", true, nullptr, 1e30}},
        {"dead-peer-ms", {0, -1, 1000.0, "1000", true, nullptr}},
        {"blocks", {json::array(), nullptr}},
    };
    for (const auto& [field, values] : wrong) {
        for (const json& value : values) {
            json message = over_the_link(to_json(some_start()));
            message[field] = value;
            const auto read = mover_start_from(over_the_link(message));
            ASSERT_FALSE(read) << field << ": " << value;
            EXPECT_EQ(read.error().code, ErrorCode::protocol) << field << ": " << value;
        }
    }
}

TEST(LinkMessage, GivesNothingForAFieldOfAnotherType) {
    const LinkMessage message{.body =
                                  json::parse(R"({"text":"a","number":18446744073709551615,"flag":true,"negative":-1,"real":1.0,
        "huge":1e300,"beyond":18446744073709551616,"null":null,"list":["a"],"object":{"text":"b"}})"),
                              .fds = {}};
    EXPECT_EQ(message.text("text"), "a");
    EXPECT_EQ(message.number("number"), std::numeric_limits<std::uint64_t>::max());
    EXPECT_TRUE(message.flag("flag"));
    for (const auto& [key, value] : message.body.items()) {
        EXPECT_EQ(message.text(key).empty(), key != "text") << key;
        EXPECT_EQ(message.number(key) == 0, key != "number") << key;
        EXPECT_EQ(message.flag(key), key == "flag") << key;
    }
    EXPECT_EQ(message.text("absent"), "");
    EXPECT_EQ(message.number("absent"), 0U);
    EXPECT_FALSE(message.flag("absent"));
}

TEST(SessionText, ComesBack) {
    const transport::SessionId session = some_start().session;
    const std::string text = session_text(session);
    EXPECT_EQ(text.size(), 2 * session.size());
    EXPECT_EQ(text.substr(0, 4), "f1e4");
    transport::SessionId read{};
    EXPECT_TRUE(read_session(text, read));
    EXPECT_EQ(read, session);
    std::string upper = text;
    for (char& c : upper) {
        c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    }
    read = {};
    EXPECT_TRUE(read_session(upper, read));
    EXPECT_EQ(read, session);
}

TEST(SessionText, NothingElseIsASession) {
    const std::string good = session_text(some_start().session);
    const auto with = [&](std::size_t at, std::string_view part) { return std::string{good}.replace(at, part.size(), part); };
    const std::vector<std::string> wrong{
        "",
        good.substr(1),
        good + "0",
        good + good,
        with(0, " "),
        with(0, "-1"),
        with(0, "+1"),
        with(0, "0x"),
        with(6, "g"),
        with(7, " "),
        with(good.size() - 1, "\n"),
        with(good.size() - 1, std::string_view{"\0", 1}),
        with(4, "\xc3\xa4"),
    };
    for (const std::string& text : wrong) {
        transport::SessionId session{};
        EXPECT_FALSE(read_session(text, session)) << text;
    }
}

void expect_same(const Error& a, const Error& b) {
    EXPECT_EQ(a.code, b.code);
    EXPECT_EQ(a.operation, b.operation);
    EXPECT_EQ(a.object, b.object);
    EXPECT_EQ(a.peer, b.peer);
    EXPECT_EQ(a.native, b.native);
    EXPECT_EQ(a.reason, b.reason);
    EXPECT_EQ(a.remedy, b.remedy);
}

TEST(ErrorMessage, ComesOverTheLinkWithEveryFieldAndCode) {
    for (std::int32_t code = 1; code <= static_cast<std::int32_t>(ErrorCode::internal); ++code) {
        const Error error{.code = static_cast<ErrorCode>(code),
                          .operation = "connect",
                          .object = "tcp:host:4444",
                          .peer = "10.0.0.1:4444",
                          .native = code % 2 == 0 ? 111 : -111,
                          .reason = "a \"quoted\" \n text",
                          .remedy = "start the destination first"};
        expect_same(error_from(over_the_link(to_json(error))), error);
    }
    expect_same(error_from(over_the_link(to_json(Error{}))), Error{});
    for (const int native : {std::numeric_limits<int>::min(), std::numeric_limits<int>::max()}) {
        const Error error{.native = native};
        EXPECT_EQ(error_from(over_the_link(to_json(error))).native, native);
    }
}

TEST(ErrorMessage, ACodeThatIsNoneIsInternal) {
    for (const char* code : {"0", "-1", "18", "2147483647", "-2147483648", "1.0", "\"8\"", "true", "null", "[8]", "{}"}) {
        const Error error = error_from(json::parse(std::string{R"({"reason":"r","code":)"} + code + "}"));
        EXPECT_EQ(error.code, ErrorCode::internal) << code;
        EXPECT_EQ(error.reason, "r") << code;
    }
    EXPECT_EQ(error_from(json::object()).code, ErrorCode::internal);
}

TEST(ErrorMessage, AFieldOfAnotherTypeIsEmpty) {
    for (const json& value : {json(1), json(-1), json(1.5), json(true), json(), json::array({"x"}), json{{"x", "y"}}}) {
        json object = {{"code", 8}};
        for (const char* field : {"operation", "object", "peer", "reason", "remedy"}) {
            object[field] = value;
        }
        object["native"] = "5";
        expect_same(error_from(object), Error{.code = ErrorCode::closed});
    }
}

TEST(ErrorMessage, WhatIsNoObjectIsAProtocolError) {
    for (const json& value : {json(), json("text"), json(8), json(true), json::array({8})}) {
        EXPECT_EQ(error_from(value).code, ErrorCode::protocol) << value;
    }
}

json start_message() {
    MoverStart start;
    start.uris = {"tcp:host:4444"};
    start.blocks = {{.name = "pc.ram", .length = 4096, .page_size = 4096}};
    return json::parse(to_json(start).dump());
}

TEST(MoverStart, StartFieldsThatAreWrongAreRefused) {
    const std::vector<std::pair<const char*, std::vector<json>>> wrong{
        {"side", {"sideways", "Source"}},
        {"lanes", {4294967297U}},
        {"epoch", {4294967296U, -1, "1"}},
        {"dead-peer-ms", {9223372036854775808U, 18446744073709551615U}},
        {"connect-timeout-ms", {-1, "1", 9223372036854775808U}},
        {"guest-runs", {1, "yes"}},
        {"postcopy", {1, "on"}},
        {"again", {0, "no"}},
        {"status", {"", 0, "Postcopy-Paused", "paused", json::array()}},
        {"page-map", {1}},
        {"faults", {most_faults + 1, -1, "1", true}},
        {"vcpu-threads", {1, json::array({-1}), json::array({4294967296U}), json::array({"1"}), json::object()}},
        {"pagemap", {1}},
        {"transport-path", {"/opt", json::array({1})}},
        {"blocks", {1, "x", json::array({1}), json::array({json::object()}), json{{"a", {{"name", "x"}}}}}},
    };
    for (const auto& [field, values] : wrong) {
        for (const json& value : values) {
            json message = start_message();
            message[field] = value;
            EXPECT_FALSE(mover_start_from(json::parse(message.dump()))) << field << ": " << value;
        }
    }
}

TEST(MoverStart, StartFieldsThatAreMissingAreRefused) {
    const json whole = start_message();
    for (const auto& [field, value] : whole.items()) {
        json message = whole;
        message.erase(field);
        EXPECT_FALSE(mover_start_from(message)) << field;
    }
}

TEST(MoverStart, StartThatIsNoObjectThrowsNothing) {
    EXPECT_NO_THROW(EXPECT_FALSE(mover_start_from(json::array())));
}

TEST(ErrorMessage, ErrorNumbersThatDoNotFitAreNotCutOff) {
    EXPECT_EQ(error_from(json::parse(R"({"code":4294967304})")).code, ErrorCode::internal);
    EXPECT_EQ(error_from(json::parse(R"({"code":-4294967288})")).code, ErrorCode::internal);
    EXPECT_EQ(error_from(json::parse(R"({"native":4294967300})")).native, 0);
}

} // namespace
} // namespace pageferry::hypervisor
