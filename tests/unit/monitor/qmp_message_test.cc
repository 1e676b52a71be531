#include "monitor/qmp_message.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace pageferry::monitor {
namespace {

using nlohmann::json;

TEST(QmpMessage, TextIsLaidOutAsQemuDoes) {
    const json value = {{"return", {{"a", 1}, {"b", {true, nullptr}}}}};
    EXPECT_EQ(to_text(value), R"({"return": {"a": 1, "b": [true, null]}})");
    EXPECT_EQ(
        to_text(value, true),
        "{\n    \"return\": {\n        \"a\": 1,\n        \"b\": [\n            true,\n            null\n        ]\n    }\n}");
    EXPECT_EQ(to_text(json::object()), "{}");
}

TEST(QmpMessage, BytesThatAreNoTextDoNotStopAnAnswer) {
    EXPECT_EQ(to_text(json("a\xff")), R"("a\ufffd")");
}

TEST(QmpMessage, AnswersCarryTheIdAsItWas) {
    const json id = {{"deep", {1, 2}}};
    EXPECT_EQ(json::parse(answer_line(json::object(), &id)), json({{"return", json::object()}, {"id", id}}));
    EXPECT_EQ(json::parse(answer_line(std::unexpected{QmpError{.desc = "no"}}, nullptr)),
              json({{"error", {{"class", "GenericError"}, {"desc", "no"}}}}));
}

TEST(QmpMessage, AnErrorWithoutOperationIsShownAsItsReasonAlone) {
    Error plain;
    plain.reason = "QEMU's words";
    EXPECT_EQ(qmp_error(plain).desc, "QEMU's words");
    EXPECT_EQ(qmp_error(make_error(ErrorCode::refused, "connect", "tcp:h:1", "nobody listens")).desc,
              "connect tcp:h:1: nobody listens");
}

TEST(QmpMessage, EventsHaveTheTimeOfNow) {
    const json event = json::parse(event_line("MIGRATION", {{"status", "setup"}}));
    EXPECT_EQ(event["event"], "MIGRATION");
    EXPECT_EQ(event["data"]["status"], "setup");
    EXPECT_GT(event["timestamp"]["seconds"], 1'700'000'000);
    EXPECT_LT(event["timestamp"]["microseconds"], 1'000'000);
}

TEST(QmpMessage, MembersAsTheyStand) {
    using Members = std::vector<std::pair<std::string_view, std::string_view>>;
    const auto of = [](std::string_view text) { return members_of(text).value_or(Members{{"none", ""}}); };
    EXPECT_EQ(of(R"({"return": [{"id": 5, "a": "}\","}, [1]], "id": "x:,y"})"),
              (Members{{R"("return")", R"([{"id": 5, "a": "}\","}, [1]])"}, {R"("id")", R"("x:,y")"}}));
    EXPECT_EQ(of("{\n    \"error\": {\n    }\n}"), (Members{{"\"error\"", "{\n    }"}}));
    EXPECT_EQ(of(R"({"return": {"value": nan}, "id": {"b": [1]}})"),
              (Members{{R"("return")", R"({"value": nan})"}, {R"("id")", R"({"b": [1]})"}}));
    EXPECT_EQ(of("{}"), Members{});
    for (const char* const text : {"", "[]", "[{\"id\": 1}]", "5", "\"x\"", "}", "{\"a", "{\"a\\", "]{"}) {
        EXPECT_EQ(members_of(text), std::nullopt) << text;
    }
}

TEST(QmpMessage, WithoutSpace) {
    EXPECT_EQ(without_space("{ \"execute\" :\t'it\\'s \" so',\r\n \"id\": [ 1, \"a  \\\" b\" ] } "),
              "{\"execute\":'it\\'s \" so',\"id\":[1,\"a  \\\" b\"]}");
    EXPECT_EQ(without_space("5"), "5\n") << "its end is told by what follows";
    EXPECT_EQ(without_space("true "), "true\n");
}

} // namespace
} // namespace pageferry::monitor
