#include "cli/probe_render.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace pageferry::cli {
namespace {

using nlohmann::json;
using std::chrono::microseconds;

std::vector<Section> two_sections() {
    return {Section{.title = "one",
                    .findings = {{.what = "short", .value = "value", .verdict = Finding::Verdict::ok},
                                 {.what = "a longer name",
                                  .value = "v",
                                  .verdict = Finding::Verdict::no,
                                  .reason = "why",
                                  .remedy = "what to do"},
                                 {.what = "plain", .value = "told", .bytes = 4096}},
                    .details = R"({"more": [1]})"},
            Section{.title = "empty", .findings = {}, .details = {}},
            Section{.title = "two",
                    .findings = {{.what = "x", .value = "", .verdict = Finding::Verdict::no, .reason = "why"}},
                    .details = "no JSON"}};
}

TEST(ProbeText, EachLineHasItsVerdict) {
    EXPECT_EQ(render_sections(two_sections()), "one\n"
                                               "  short          value  ok\n"
                                               "  a longer name  v      no: why; what to do\n"
                                               "  plain          told\n"
                                               "\n"
                                               "two\n"
                                               "  x    no: why\n");
}

TEST(ProbeText, ALongValueDoesNotMoveTheOthersVerdicts) {
    const std::string text = render_sections({Section{
        .title = "s",
        .findings = {{.what = "a", .value = std::string(200, 'v')}, {.what = "b", .value = "v", .verdict = Finding::Verdict::ok}},
        .details = {}}});
    EXPECT_LT(text.size() - text.rfind("\n  b"), 80U);
}

TEST(ProbeJson, HasWhatTheTextHas) {
    const std::string text = json_sections(two_sections());
    EXPECT_EQ(text.find('\n'), text.size() - 1) << "one line";
    const json all = json::parse(text);
    EXPECT_EQ(all["type"], "host");
    ASSERT_EQ(all["sections"].size(), 3U);
    const json& first = all["sections"][0];
    EXPECT_EQ(first["title"], "one");
    EXPECT_EQ(first["findings"][0], json::parse(R"({"what": "short", "value": "value", "ok": true})"));
    EXPECT_EQ(first["findings"][1],
              json::parse(R"({"what": "a longer name", "value": "v", "ok": false, "reason": "why", "remedy": "what to do"})"));
    EXPECT_EQ(first["findings"][2], json::parse(R"({"what": "plain", "value": "told", "bytes": 4096})"));
    EXPECT_EQ(first["details"], json::parse(R"({"more": [1]})"));
    EXPECT_FALSE(all["sections"][2].contains("details"));
}

ProbeReport good_report() {
    ProbeReport report;
    report.uri = "tcp:h:1";
    report.plugin = "/lib/t.so";
    report.transport = "tcp";
    report.phases = {{.name = "connecting", .detail = "192.0.2.7:1", .took = microseconds{1234}}};
    report.connection = "tcp a -> b, 2 lanes";
    report.lanes = 2;
    report.peer = ProbeReport::Peer::listener;
    report.software = "pageferry 1";
    report.round_trips =
        RoundTrips{.count = 20, .least = microseconds{10}, .median = microseconds{20}, .most = microseconds{3000}};
    report.push = PushFigures{.bytes = 16U << 20U, .first = microseconds{200'000}, .again = microseconds{100'000}};
    return report;
}

TEST(ProbeText, AConnection) {
    EXPECT_EQ(render_phase(good_report().phases[0]), "  connecting        1.234 ms    192.0.2.7:1\n");
    EXPECT_EQ(render_outcome(good_report()), "  connection        tcp a -> b, 2 lanes\n"
                                             "  peer              pageferry 1, pageferry probe --listen\n"
                                             "  round trip        median 0.020 ms, least 0.010 ms, most 3.000 ms, of 20\n"
                                             "  push              16.0 MiB in 100.0 ms, 160 MiB/s (the first time 200.0 ms)\n"
                                             "ok\n");
}

TEST(ProbeText, AFailure) {
    ProbeReport report;
    report.uri = "tcp:h:1";
    report.failed_in = "connecting";
    report.error = make_error(ErrorCode::refused, "connect", "tcp:h:1", "nobody is there", "start the destination");
    EXPECT_EQ(render_outcome(report), "  connecting        no: nobody is there; start the destination\n");
    const json all = json::parse(json_report(report));
    EXPECT_EQ(all["ok"], false);
    EXPECT_EQ(all["error"]["phase"], "connecting");
    EXPECT_EQ(all["error"]["code"], "refused");
    EXPECT_EQ(all["error"]["reason"], "nobody is there");
    EXPECT_EQ(all["error"]["remedy"], "start the destination");
    EXPECT_FALSE(all.contains("connection"));
}

TEST(ProbeJson, AConnection) {
    const json all = json::parse(json_report(good_report()));
    EXPECT_EQ(all["type"], "connection");
    EXPECT_EQ(all["ok"], true);
    EXPECT_EQ(all["phases"][0], json::parse(R"({"phase": "connecting", "ms": 1.234, "detail": "192.0.2.7:1"})"));
    EXPECT_EQ(all["lanes"], 2);
    EXPECT_EQ(all["peer"]["kind"], "probe");
    EXPECT_EQ(all["round_trip_ms"]["median"], 0.02);
    EXPECT_EQ(all["push"]["bytes"], 16 << 20);
    EXPECT_NEAR(all["push"]["bytes_per_second"].get<double>(), 167'772'160.0, 1.0);
    EXPECT_FALSE(all.contains("error"));
}

TEST(ProbeJson, BytesThatAreNoUtf8AreReplaced) {
    ProbeReport report;
    report.uri = "tcp:\xff:1";
    EXPECT_TRUE(json::accept(json_report(report)));
}

TEST(ShortTime, Units) {
    EXPECT_EQ(format_short(microseconds{84}), "0.084 ms");
    EXPECT_EQ(format_short(microseconds{12'345}), "12.3 ms");
    EXPECT_EQ(format_short(microseconds{1'204'000}), "1.20 s");
}

} // namespace
} // namespace pageferry::cli
