#include "cli/snapshot.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace pageferry::cli {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

TEST(Snapshots, ReadWhatQemuSays) {
    // QEMU 7.2 in the middle of a precopy.
    const Snapshot now =
        parse_snapshot(json::parse(R"({"expected-downtime": 300, "status": "active", "setup-time": 1, "total-time": 2004,
        "ram": {"total": 285810688, "postcopy-requests": 0, "dirty-sync-count": 1, "multifd-bytes": 0, "pages-per-second": 11380,
                "downtime-bytes": 0, "page-size": 4096, "remaining": 80670720, "postcopy-bytes": 0, "mbps": 8.0,
                "transferred": 626999, "dirty-sync-missed-zero-copy": 0, "precopy-bytes": 626999, "duplicate": 50000, "dirty-pages-rate": 10,
                "skipped": 0, "normal-bytes": 4096, "normal": 1}})"));
    EXPECT_EQ(now.status, "active");
    EXPECT_EQ(now.total, 285810688U);
    EXPECT_EQ(now.remaining, 80670720U);
    EXPECT_EQ(now.transferred, 626999U);
    EXPECT_EQ(now.processed, 50001U * 4096);
    EXPECT_EQ(now.rate, 1e6);
    EXPECT_EQ(now.dirty_rate, 40960.0);
    EXPECT_EQ(now.rounds, 1U);
    EXPECT_EQ(now.total_time, milliseconds{2004});
    EXPECT_EQ(now.setup_time, milliseconds{1});
    EXPECT_EQ(now.expected_downtime, milliseconds{300});
    EXPECT_FALSE(now.downtime);
}

TEST(Snapshots, ReadTheReasonOfAFailure) {
    const Snapshot now = parse_snapshot({{"status", "failed"}, {"error-desc", "Connection refused"}});
    EXPECT_EQ(now.status, "failed");
    EXPECT_EQ(now.error, "Connection refused");
}

TEST(Snapshots, ReadWhichTransportCarriesIt) {
    const json answer = json::parse(R"({"status": "active", "x-pageferry-transport": {"uri": "tcp:h:1", "name": "tcp", "lanes": 2,
        "connection": "c", "attempts": [{"uri": "rdma:h:1", "phase": "open", "reason": "no device", "error-desc": "long"},
                                        {"uri": "rdma:h:2", "error-desc": "long"}, 5, {"uri": 5}]}})");
    const TransportView expected{
        .uri = "tcp:h:1",
        .name = "tcp",
        .connection = "c",
        .attempts = {{.uri = "rdma:h:1", .reason = "no device"}, {.uri = "rdma:h:2", .reason = "long"}, {}}};
    EXPECT_EQ(parse_snapshot(answer).transport, expected);
    EXPECT_EQ(parse_snapshot(json{{"status", "active"}}).transport, std::nullopt);
    EXPECT_EQ(parse_snapshot(json{{"x-pageferry-transport", 5}}).transport, std::nullopt);
}

TEST(Snapshots, ReadWhatAPostcopyDoes) {
    const Snapshot now = parse_snapshot(json::parse(R"({"status": "postcopy-active", "total-time": 5, "x-pageferry-postcopy":
        {"requests": 7, "request-bytes": 28672, "bytes": 1048576, "missing": 8192, "faults-per-second": 3.5,
         "latency": {"p50-us": 210.4, "p99-us": 1900, "dist": [0, 1, 6]}},
        "ram": {"total": 100000, "remaining": 90000, "transferred": 5, "postcopy-requests": 1, "postcopy-bytes": 2, "page-size": 8192}})"));
    const PostcopyView expected{.requests = 7,
                                .request_bytes = 28672,
                                .bytes = 1048576,
                                .missing = 8192,
                                .faults_per_second = 3.5,
                                .p50 = std::chrono::microseconds{210},
                                .p99 = std::chrono::microseconds{1900},
                                .distribution = {0, 1, 6}};
    EXPECT_EQ(now.postcopy, expected);
    EXPECT_TRUE(now.source);
    EXPECT_EQ(now.page_size, 8192U);
    EXPECT_EQ(bytes_left(now), 8192U);
}

TEST(Snapshots, ReadWhatPlainQemuSaysOfAPostcopy) {
    const json ram{{"total", 1000}, {"remaining", 500}, {"transferred", 9}, {"postcopy-requests", 3}, {"postcopy-bytes", 12288}};
    const Snapshot now = parse_snapshot({{"status", "postcopy-active"}, {"ram", ram}});
    EXPECT_EQ(now.postcopy, (PostcopyView{.requests = 3, .bytes = 12288}));
    EXPECT_EQ(bytes_left(now), 500U);
    EXPECT_TRUE(parse_snapshot({{"status", "completed"}, {"ram", ram}}).postcopy);
    EXPECT_FALSE(parse_snapshot({{"status", "active"}, {"ram", {{"postcopy-requests", 0}, {"postcopy-bytes", 0}}}}).postcopy);
    EXPECT_FALSE(parse_snapshot({{"status", "postcopy-paused"}}).source) << "a destination's answer";
}

TEST(Snapshots, TakeAnythingOfAPostcopyForMissing) {
    EXPECT_FALSE(parse_snapshot(json::parse(R"({"status": "postcopy-active", "x-pageferry-postcopy": 5})")).postcopy);
    EXPECT_FALSE(parse_snapshot(json::parse(R"({"status": "postcopy-active", "x-pageferry-postcopy":
        {"requests": -1, "missing": "all", "latency": {"p50-us": "fast", "p99-us": -4, "dist": [1, -2]}}})"))
                     .postcopy);
    EXPECT_FALSE(parse_snapshot(json::parse(R"({"x-pageferry-postcopy": {"latency": []}, "x-pageferry-history": 5})")).postcopy);
    EXPECT_EQ(parse_snapshot(json::parse(R"({"ram": {"page-size": 0}})")).page_size, 1U);
}

TEST(Snapshots, ReadTheHistory) {
    EXPECT_EQ(parse_snapshot(json::parse(R"({"status": "active", "x-pageferry-history":
        [{"status": "setup", "timestamp": {"seconds": 1, "microseconds": 0}}]})"))
                  .history.size(),
              1U);
}

TEST(Snapshots, TakeAnythingForMissing) {
    EXPECT_EQ(parse_snapshot(json::object()).status, "none");
    EXPECT_EQ(parse_snapshot(json{}).status, "none");
    EXPECT_EQ(parse_snapshot(json::array()).status, "none");
    EXPECT_EQ(parse_snapshot({{"status", 7}}).status, "none");
    const Snapshot odd =
        parse_snapshot(json::parse(R"({"status": "active", "total-time": -1, "downtime": "soon", "error-desc": {},
        "ram": {"total": -5, "remaining": 1.5, "transferred": null, "mbps": -1, "dirty-pages-rate": "many", "page-size": 0.5}})"));
    EXPECT_FALSE(odd.total || odd.remaining || odd.transferred || odd.rate || odd.dirty_rate || odd.total_time || odd.downtime);
    EXPECT_FALSE(parse_snapshot({{"status", "active"}, {"ram", 3}}).total);
}

TEST(Statuses, AreSortedIntoEndsAndTheRest) {
    for (const char* end : {"completed", "failed", "cancelled"}) {
        EXPECT_TRUE(is_final(end));
        EXPECT_FALSE(is_under_way(end));
    }
    for (const char* on_the_way :
         {"setup", "active", "cancelling", "failing", "device", "pre-switchover", "postcopy-active", "postcopy-paused"}) {
        EXPECT_FALSE(is_final(on_the_way));
        EXPECT_TRUE(is_under_way(on_the_way));
    }
    EXPECT_FALSE(is_under_way("none"));
    for (const char* late :
         {"postcopy-device", "postcopy-active", "postcopy-paused", "postcopy-recover-setup", "postcopy-recover"}) {
        EXPECT_TRUE(is_postcopy(late));
    }
    EXPECT_FALSE(is_postcopy("active") || is_postcopy("device") || is_postcopy("completed"));
}

} // namespace
} // namespace pageferry::cli
