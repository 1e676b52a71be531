// What a mover tells of its transports: as values, and as nothing else.
#include "hypervisor/link/transport_report.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <utility>

namespace pageferry::hypervisor {
namespace {

using nlohmann::json;

constexpr std::size_t candidates = 3;

TransportReport some_report() {
    return {
        .candidate = 2,
        .uri = "tcp:h:1",
        .name = "tcp",
        .connection = "tcp 192.0.2.1:5 -> 192.0.2.7:1, 2 lanes",
        .lanes = 2,
        .attempts = {{.uri = "rdma:h:1", .phase = "open", .reason = "no device", .error_desc = "open rdma:h:1: no device; plug"},
                     {.uri = "rdma:g:1", .phase = "hello", .reason = "a \"quoted\" \n one", .error_desc = "x"}}};
}

json over_the_link(const json& message) {
    return json::parse(message.dump(-1, ' ', false, json::error_handler_t::replace));
}

Result<TransportReport> read(const json& message) {
    return transport_report_from(over_the_link(message), candidates);
}

TEST(TransportReport, ComesOverTheLinkWithEveryField) {
    const auto report = read(to_json(some_report()));
    ASSERT_TRUE(report) << report.error().to_string();
    EXPECT_EQ(report->candidate, 2U);
    EXPECT_EQ(shown(*report), shown(some_report()));
    EXPECT_EQ(shown(*report)["attempts"][1]["reason"], "a \"quoted\" \n one");
    EXPECT_EQ(shown(*report)["attempts"][0]["phase"], "open");
    EXPECT_EQ(shown(*report)["lanes"], 2);
}

TEST(TransportReport, BeforeThereIsOneItHasAttemptsOnly) {
    TransportReport report = some_report();
    report.candidate.reset();
    const auto came = read(to_json(report));
    ASSERT_TRUE(came);
    EXPECT_FALSE(came->empty());
    EXPECT_EQ(shown(*came).size(), 1U);
    EXPECT_EQ(shown(*came)["attempts"].size(), 2U);
    EXPECT_TRUE(TransportReport{}.empty());
}

TEST(TransportReport, LongTextsAreCutBeforeTheyAreSent) {
    TransportReport report = some_report();
    report.connection = std::string(100'000, '\xff');
    report.attempts[0].error_desc = std::string(100'000, 'x');
    EXPECT_TRUE(read(to_json(report)));
}

TEST(TransportReport, AnythingElseIsAProtocolError) {
    const std::vector<std::pair<const char*, std::vector<json>>> wrong{
        {"candidate", {3, -1, "0", nullptr, 1.0, 18446744073709551615U}},
        {"uri", {1, nullptr, std::string(3000, 'u')}},
        {"name", {json::array(), std::string(3000, 'u')}},
        {"connection", {json::object(), std::string(3000, 'u')}},
        {"lanes", {-1, 65536, "2"}},
        {"attempts",
         {nullptr, "x", json::object(), json::array({1}), json::array({json::object()}), json(std::vector<int>(4, 1))}},
    };
    for (const auto& [field, values] : wrong) {
        for (const json& value : values) {
            json message = to_json(some_report());
            message[field] = value;
            const auto report = read(message);
            ASSERT_FALSE(report) << field << ": " << value;
            EXPECT_EQ(report.error().code, ErrorCode::protocol);
        }
        json message = to_json(some_report());
        message.erase(field);
        EXPECT_EQ(read(message).has_value(), std::string{field} == "candidate") << field;
    }
    for (const char* field : {"uri", "phase", "reason", "error-desc"}) {
        for (const json& value : {json(1), json(std::string(3000, 'u'))}) {
            json message = to_json(some_report());
            message["attempts"][0][field] = value;
            EXPECT_FALSE(read(message)) << field;
        }
    }
    EXPECT_FALSE(transport_report_from(json::array(), candidates));
    EXPECT_FALSE(transport_report_from(over_the_link(to_json(some_report())), 0));
}

} // namespace
} // namespace pageferry::hypervisor
