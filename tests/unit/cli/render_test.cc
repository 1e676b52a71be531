#include "cli/render.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace pageferry::cli {
namespace {

using nlohmann::json;
using std::chrono::microseconds;
using std::chrono::milliseconds;

ProgressView full_view() {
    ProgressView view;
    view.snapshot.status = "active";
    view.snapshot.total = std::uint64_t{4} << 30;
    view.snapshot.remaining = std::uint64_t{1} << 30;
    view.snapshot.transferred = std::uint64_t{3} << 30;
    view.snapshot.dirty_rate = 100.0 * (1 << 20);
    view.snapshot.expected_downtime = milliseconds{42};
    view.snapshot.rounds = 3;
    view.percent = 75;
    view.rate = 1.25 * (1 << 30);
    view.eta = milliseconds{860};
    view.lanes = 4;
    view.time = microseconds{1'000'000'000'000'000};
    return view;
}

TEST(LiveLine, ShowsAllWhereThereIsRoom) {
    EXPECT_EQ(render_live_line(full_view(), 200), "active  [###############.....]   75.0%  1.00 GiB left  1.25 GiB/s  dirty 100 "
                                                  "MiB/s  ETA 860 ms  downtime ~42 ms  4 lanes");
}

TEST(LiveLine, FitsEveryWidth) {
    for (std::size_t width = 0; width <= 200; ++width) {
        EXPECT_LE(render_live_line(full_view(), width).size(), width);
    }
}

TEST(LiveLine, DropsWhatMattersLeastFirst) {
    const std::string at_80 = render_live_line(full_view(), 80);
    EXPECT_EQ(at_80, "active  [###############.....]   75.0%  1.00 GiB left  1.25 GiB/s  ETA 860 ms");
    EXPECT_EQ(render_live_line(full_view(), 30), "active   75.0%  1.25 GiB/s");
    EXPECT_EQ(render_live_line(full_view(), 14), "active   75.0%");
    EXPECT_EQ(render_live_line(full_view(), 3), "act");
}

TEST(LiveLine, LeavesOutWhatIsNotKnown) {
    ProgressView view;
    view.snapshot.status = "setup";
    EXPECT_EQ(render_live_line(view, 80), "setup");
}

TEST(LiveLine, SaysWhenTheGuestIsTooFast) {
    ProgressView view = full_view();
    view.eta.reset();
    view.converges = false;
    EXPECT_NE(render_live_line(view, 200).find("ETA never"), std::string::npos);
}

TEST(LiveLine, Says100PercentOnlyWhenItIsTrue) {
    ProgressView view = full_view();
    view.percent = 99.99;
    EXPECT_NE(render_live_line(view, 200).find(" 99.9%"), std::string::npos);
    view.percent = 100;
    EXPECT_NE(render_live_line(view, 200).find("[####################]  100.0%"), std::string::npos);
}

TEST(LiveLine, KeepsControlCharactersOut) {
    ProgressView view;
    view.snapshot.status = "a\x1b[2Jb\nc";
    EXPECT_EQ(render_live_line(view, 80), "a [2Jb c");
}

TransportView fallen_back() {
    return {.uri = "tcp:h:1",
            .name = "tcp",
            .connection = "tcp a -> b, 2 lanes",
            .attempts = {{.uri = "rdma:h:1", .reason = "no RDMA device\x1b"}}};
}

TEST(Transport, IsOnTheLiveLineWithWhatCouldNotBeUsed) {
    ProgressView view = full_view();
    view.snapshot.transport = fallen_back();
    EXPECT_TRUE(render_live_line(view, 200).ends_with("4 lanes  by tcp  (rdma:h:1: no RDMA device )"));
    EXPECT_TRUE(render_live_line(view, 110).contains("by tcp")) << render_live_line(view, 110);
    view.snapshot.transport->attempts.clear();
    EXPECT_TRUE(render_live_line(view, 200).ends_with("4 lanes  by tcp"));
    view.snapshot.transport = TransportView{};
    EXPECT_TRUE(render_live_line(view, 200).ends_with("4 lanes"));
    view.snapshot.transport->attempts = fallen_back().attempts;
    EXPECT_TRUE(render_live_line(view, 200).contains("no transport yet"));
    for (std::size_t width = 0; width <= 200; ++width) {
        EXPECT_LE(render_live_line(view, width).size(), width);
    }
}

TEST(Transport, IsInStatusSummaryAndJson) {
    ProgressView view = full_view();
    view.snapshot.transport = fallen_back();
    const std::string status = render_status(view);
    EXPECT_TRUE(status.contains("transport           tcp:h:1 (tcp a -> b, 2 lanes)\n")) << status;
    EXPECT_TRUE(status.contains("could not use       rdma:h:1: no RDMA device \n")) << status;
    EXPECT_TRUE(render_summary({.last = view.snapshot}).contains("by tcp (rdma:h:1: no RDMA device )"));
    const json expected{{"uri", "tcp:h:1"},
                        {"name", "tcp"},
                        {"connection", "tcp a -> b, 2 lanes"},
                        {"attempts", {{{"uri", "rdma:h:1"}, {"reason", "no RDMA device\x1b"}}}}};
    EXPECT_EQ(json::parse(json_progress(view))["transport"], expected);
    EXPECT_EQ(json::parse(json_summary({.last = view.snapshot}, 0, {}))["transport"], expected);
    EXPECT_FALSE(json::parse(json_progress(full_view())).contains("transport"));
}

ProgressView postcopy_view() {
    ProgressView view = full_view();
    view.snapshot.status = "postcopy-active";
    view.snapshot.source = true;
    view.snapshot.postcopy = PostcopyView{.requests = 321,
                                          .request_bytes = 321 * 4096,
                                          .bytes = 12 << 20,
                                          .missing = (3 << 20) + 1,
                                          .p50 = microseconds{210},
                                          .p99 = microseconds{1900},
                                          .distribution = {1, 2}};
    view.rate = 45.0 * (1 << 20);
    view.faults = 120.4;
    return view;
}

TEST(PostcopyText, IsOnTheLiveLine) {
    EXPECT_EQ(render_live_line(postcopy_view(), 200),
              "postcopy-active  [###############.....]   75.0%  769 pages (3.00 MiB) left  45.0 MiB/s  120 faults/s  p50 210 us  "
              "p99 1.90 ms  ETA 860 ms  4 lanes");
    EXPECT_EQ(render_live_line(postcopy_view(), 80), "postcopy-active   75.0%  45.0 MiB/s  120 faults/s  ETA 860 ms");
    for (std::size_t width = 0; width <= 200; ++width) {
        EXPECT_LE(render_live_line(postcopy_view(), width).size(), width);
    }
}

TEST(PostcopyText, IsInStatusAndSummary) {
    ProgressView view = postcopy_view();
    enter_state(view.snapshot.history, "setup", microseconds{0});
    enter_state(view.snapshot.history, "active", microseconds{20'000});
    const std::string status = render_status(view, "pageferry recover");
    for (const char* part :
         {"left                769 pages (3.00 MiB)\n", "faults              321 pages (1.25 MiB), 120 faults/s\n",
          "fault latency       p50 210 us, p99 1.90 ms\n", "moved in postcopy   12.0 MiB\n",
          "states              setup 20 ms, active\n", "next                pageferry recover\n"}) {
        EXPECT_TRUE(status.contains(part)) << part << "in\n" << status;
    }
    EXPECT_FALSE(status.contains("dirty rate") || status.contains("expected downtime")) << status;

    Summary summary{.last = postcopy_view().snapshot, .history = view.snapshot.history};
    EXPECT_TRUE(render_summary(summary).contains("faults              321 pages (1.25 MiB)\n")) << render_summary(summary);
    EXPECT_TRUE(render_summary(summary).contains("states              setup 20 ms, active\n")) << render_summary(summary);
    enter_state(summary.last.history, "told by the monitor", microseconds{0});
    EXPECT_TRUE(render_summary(summary).contains("states              told by the monitor\n"));
}

TEST(PostcopyText, IsInJson) {
    EXPECT_EQ(
        json::parse(json_progress(postcopy_view()))["postcopy"],
        json::parse(
            R"({"requests": 321, "request_bytes": 1314816, "bytes": 12582912, "missing_bytes": 3145729, "missing_pages": 769,
                              "faults_per_second": 120.4, "latency_p50_us": 210, "latency_p99_us": 1900, "latency_distribution": [1, 2]})"));
    Summary summary{.last = postcopy_view().snapshot};
    enter_state(summary.history, "setup", microseconds{0});
    enter_state(summary.history, "active", microseconds{20'000});
    const json told = json::parse(json_summary(summary, 6, {}));
    EXPECT_EQ(told["history"], json::parse(R"([{"status": "setup", "time": "1970-01-01T00:00:00.000000Z", "ms": 20},
                                               {"status": "active", "time": "1970-01-01T00:00:00.020000Z"}])"));
    EXPECT_EQ(told["postcopy"]["requests"], 321);
    EXPECT_FALSE(json::parse(json_progress(full_view())).contains("postcopy"));
}

TEST(PostcopyText, SaysWhatToTypeNext) {
    Snapshot paused;
    paused.status = "postcopy-paused";
    paused.source = true;
    EXPECT_EQ(recovery_advice(paused, "/run/vm.qmp", {"rdma:h:1", "tcp:[fe80::1]:2"}),
              "pageferry recover --qmp /run/vm.qmp rdma:h:1 'tcp:[fe80::1]:2'");
    EXPECT_EQ(recovery_advice(paused, "/run/a vm", {}), "pageferry recover --qmp '/run/a vm' URI");
    paused.transport = fallen_back();
    EXPECT_EQ(recovery_advice(paused, "/run/vm.qmp", {}), "pageferry recover --qmp /run/vm.qmp tcp:h:1");
    paused.source = false;
    EXPECT_TRUE(recovery_advice(paused, "/run/vm.qmp", {}).contains("--qmp /run/vm.qmp --incoming URI"));
}

TEST(StateLine, HasTimeAndState) {
    const std::string line = render_state_line({.status = "postcopy-active", .time = microseconds{1'000'000'000'123'456}});
    EXPECT_EQ(line.substr(line.find(':') + 4), "40.123  postcopy-active");
    EXPECT_NE(render_state_line({.status = "STOP", .run_state = true}).find("(guest) STOP"), std::string::npos);
}

Summary finished() {
    Summary summary;
    summary.last.status = "completed";
    summary.last.total_time = milliseconds{2000};
    summary.last.downtime = milliseconds{12};
    summary.last.transferred = std::uint64_t{2} << 30;
    summary.last.rounds = 3;
    return summary;
}

TEST(SummaryText, HasTimeDowntimeBytesAndRate) {
    EXPECT_EQ(render_summary(finished()), "result              completed\n"
                                          "total time          2.0 s\n"
                                          "downtime            12 ms\n"
                                          "transferred         2.00 GiB\n"
                                          "rate                1.00 GiB/s\n"
                                          "rounds              3\n");
}

TEST(SummaryText, UsesOurOwnClockWhereTheMonitorHasNone) {
    Summary summary;
    summary.last.status = "failed";
    summary.watched = milliseconds{1500};
    EXPECT_EQ(render_summary(summary), "result              failed\ntotal time          1.5 s\n");
    EXPECT_FALSE(average_rate(summary));
    summary.last.transferred = 3000;
    EXPECT_EQ(average_rate(summary), 2000.0);
    summary.watched = milliseconds{0};
    EXPECT_FALSE(average_rate(summary)) << "no division by nothing";
}

TEST(JsonLines, AreOneObjectEach) {
    for (const std::string& line :
         {json_progress(full_view()), json_state({.status = "active"}), json_summary(finished(), 0, microseconds{0})}) {
        EXPECT_EQ(line.find('\n'), std::string::npos);
        EXPECT_TRUE(json::parse(line).is_object());
    }
}

TEST(JsonLines, HaveTheDocumentedMembers) {
    EXPECT_EQ(json::parse(json_progress(full_view())),
              json::parse(R"({"type": "progress", "time": "2001-09-09T01:46:40.000000Z", "status": "active",
        "percent": 75.0, "total_bytes": 4294967296, "remaining_bytes": 1073741824, "transferred_bytes": 3221225472,
        "rate_bytes_per_second": 1342177280, "dirty_bytes_per_second": 104857600, "eta_ms": 860, "converges": true,
        "expected_downtime_ms": 42, "rounds": 3, "lanes": 4})"));
    EXPECT_EQ(json::parse(json_state({.status = "active"})),
              json::parse(R"({"type": "state", "time": "1970-01-01T00:00:00.000000Z", "status": "active"})"));
    EXPECT_EQ(json::parse(json_state({.status = "STOP", .run_state = true})),
              json::parse(R"({"type": "guest", "time": "1970-01-01T00:00:00.000000Z", "event": "STOP"})"));
    EXPECT_EQ(
        json::parse(json_summary(finished(), 0, microseconds{0})),
        json::parse(
            R"({"type": "summary", "time": "1970-01-01T00:00:00.000000Z", "status": "completed", "exit_code": 0, "timed_out": false,
                  "total_time_ms": 2000, "downtime_ms": 12, "transferred_bytes": 2147483648, "rate_bytes_per_second": 1073741824, "rounds": 3})"));
}

TEST(JsonLines, LeaveOutWhatIsNotKnown) {
    EXPECT_EQ(json::parse(json_progress({})),
              json::parse(R"({"type": "progress", "time": "1970-01-01T00:00:00.000000Z", "status": "none"})"));
}

TEST(JsonLines, SurviveBytesThatAreNoText) {
    Summary summary = finished();
    summary.last.error = "bad \xff byte";
    EXPECT_TRUE(json::parse(json_summary(summary, 1, microseconds{0})).contains("error"));
}

TEST(StatusText, ListsWhatIsKnown) {
    ProgressView view = full_view();
    view.snapshot.error = "two\nlines";
    const std::string text = render_status(view);
    for (const char* part : {"state               active\n", "done                75.0%\n", "left                1.00 GiB\n",
                             "ETA                 860 ms\n", "lanes               4\n", "error               two lines\n"}) {
        EXPECT_NE(text.find(part), std::string::npos) << part << "in\n" << text;
    }
    EXPECT_EQ(render_status({}), "state               none\n");
}

} // namespace
} // namespace pageferry::cli
