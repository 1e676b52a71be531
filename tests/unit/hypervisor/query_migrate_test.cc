// The answer to query-migrate: which members it has in which state, and how they are reckoned.
#include "hypervisor/monitor_process/query_migrate.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <array>
#include <limits>
#include <set>
#include <thread>

namespace pageferry::hypervisor {
namespace {

using nlohmann::json;
using statemachine::Side;
using statemachine::Status;
using std::chrono::milliseconds;
using Names = std::set<std::string>;

constexpr std::uint64_t mib = 1024UL * 1024;

Names names_of(const json& object) {
    Names names;
    for (const auto& [name, value] : object.items()) {
        names.insert(name);
    }
    return names;
}

class QueryMigrate : public testing::Test {
protected:
    void SetUp() override {
        progress.ram_total = 100 * mib;
        progress.ram_hole = 20 * mib;
        progress.ram_transferred = 50 * mib;
        progress.ram_remaining = 30 * mib;
        progress.downtime_bytes = 5 * mib;
        progress.device_bytes = 12'345;
        progress.dirty_pages_rate = 77;
        progress.dirty_sync_count = 4;
        progress.bandwidth = 10'000'000;
        progress.expected_downtime_ms = 250;
        progress.setup_us = 7'999;
        progress.downtime_us = 41'001;
        progress.lanes = 3;
        progress.page_size = 4096;
    }
    [[nodiscard]] json ask(Status status, milliseconds total_time = milliseconds{2000}) const {
        return query_migrate({.status = status, .total_time = total_time, .progress = &progress});
    }
    [[nodiscard]] json ram(Status status, milliseconds total_time = milliseconds{2000}) const {
        return ask(status, total_time).at("ram");
    }

    engine::Progress progress;
};

TEST_F(QueryMigrate, SaysNothingBeforeTheFirstMigration) {
    EXPECT_EQ(ask(Status::none), json::object());
    EXPECT_EQ(query_migrate({.side = Side::destination}), json::object());
}

TEST_F(QueryMigrate, SetupHasNoFigures) {
    const json answer = ask(Status::setup, milliseconds{12});
    EXPECT_EQ(names_of(answer), (Names{"status", "total-time"}));
    EXPECT_EQ(answer["status"], "setup");
    EXPECT_EQ(answer["total-time"], 12);
}

TEST_F(QueryMigrate, ActiveHasFiguresAndWhatIsExpected) {
    const json answer = ask(Status::active);
    EXPECT_EQ(names_of(answer), (Names{"status", "total-time", "setup-time", "ram", "expected-downtime", "x-pageferry-lanes"}));
    EXPECT_EQ(answer["status"], "active");
    EXPECT_EQ(answer["total-time"], 2000);
    EXPECT_EQ(answer["setup-time"], 7);
    EXPECT_EQ(answer["expected-downtime"], 250);
    EXPECT_EQ(answer["x-pageferry-lanes"], 3);
    const json& figures = answer["ram"];
    EXPECT_EQ(figures["total"], 100 * mib);
    EXPECT_EQ(figures["remaining"], 30 * mib);
    EXPECT_EQ(figures["transferred"], 50 * mib + 12'345);
    EXPECT_EQ(figures["normal"], 50 * mib / 4096);
    EXPECT_EQ(figures["normal-bytes"], 50 * mib);
    EXPECT_EQ(figures["duplicate"], 20 * mib / 4096);
    EXPECT_EQ(figures["page-size"], 4096);
    EXPECT_EQ(figures["mbps"], 80.0);
    EXPECT_EQ(figures["pages-per-second"], 10'000'000 / 4096);
    EXPECT_EQ(figures["dirty-pages-rate"], 77);
    EXPECT_EQ(figures["dirty-sync-count"], 4);
    EXPECT_EQ(figures["precopy-bytes"], 45 * mib);
    EXPECT_EQ(figures["downtime-bytes"], 5 * mib);
    EXPECT_EQ(figures["multifd-bytes"], 50 * mib);
    for (const char* never : {"postcopy-requests", "postcopy-bytes", "dirty-sync-missed-zero-copy"}) {
        EXPECT_EQ(figures[never], 0) << never;
    }
}

TEST_F(QueryMigrate, EveryMemberThatQemuRequiresIsANumber) { // MigrationStats has no optional ones
    const json figures = ram(Status::active);
    for (const auto& [name, value] : figures.items()) {
        EXPECT_TRUE(name == "mbps" ? value.is_number_float() : value.is_number_integer()) << name;
    }
    EXPECT_EQ(names_of(figures),
              (Names{"total", "remaining", "transferred", "normal", "normal-bytes", "duplicate", "page-size", "mbps",
                     "pages-per-second", "dirty-pages-rate", "dirty-sync-count", "precopy-bytes", "downtime-bytes",
                     "multifd-bytes", "postcopy-requests", "postcopy-bytes", "dirty-sync-missed-zero-copy"}));
}

TEST_F(QueryMigrate, CompletedHasTheDowntimeThatWas) {
    const json answer = ask(Status::completed);
    EXPECT_EQ(names_of(answer), (Names{"status", "total-time", "setup-time", "ram", "downtime", "x-pageferry-lanes"}));
    EXPECT_EQ(answer["status"], "completed");
    EXPECT_EQ(answer["downtime"], 42);
}

TEST_F(QueryMigrate, FailedAndCancelledHaveNoDowntimeOfAnyKind) {
    for (const Status status : {Status::failed, Status::cancelled}) {
        const json answer = ask(status);
        EXPECT_EQ(names_of(answer), (Names{"status", "total-time", "setup-time", "ram", "x-pageferry-lanes"}));
        EXPECT_EQ(answer["status"], statemachine::name_of(status));
    }
}

TEST_F(QueryMigrate, EveryOtherStateIsUnderWay) {
    for (std::size_t number = 0; number < statemachine::status_count; ++number) {
        const auto status = static_cast<Status>(number);
        const json answer = ask(status);
        const bool in_postcopy = statemachine::name_of(status).starts_with("postcopy");
        const bool under_way = status != Status::none && status != Status::setup && status != Status::completed &&
                               status != Status::failed && status != Status::cancelled && !in_postcopy;
        EXPECT_EQ(answer.contains("expected-downtime"), under_way) << statemachine::name_of(status);
        EXPECT_EQ(answer.contains("downtime"), status == Status::completed || in_postcopy) << statemachine::name_of(status);
        EXPECT_EQ(answer.value("status", "none"), statemachine::name_of(status));
    }
}

TEST_F(QueryMigrate, ADestinationHasItsStatusOnly) {
    for (const Status status : {Status::setup, Status::active, Status::completed, Status::postcopy_active}) {
        const json answer =
            query_migrate({.side = Side::destination, .status = status, .total_time = milliseconds{2000}, .progress = &progress});
        EXPECT_EQ(names_of(answer), (Names{"status"}));
        EXPECT_EQ(answer["status"], statemachine::name_of(status));
    }
}

TEST_F(QueryMigrate, ADestinationNamesEveryAddressItListensOn) {
    const std::array<std::string, 3> uris{"rdma:[::1]:4444", "tcp:h:4445", "unix:/p"};
    const json answer = query_migrate({.side = Side::destination, .status = Status::setup, .listening = uris});
    EXPECT_EQ(answer["socket-address"], (json{{{"type", "inet"}, {"host", "::1"}, {"port", "4444"}},
                                              {{"type", "inet"}, {"host", "h"}, {"port", "4445"}},
                                              {{"type", "unix"}, {"path", "/p"}}}));
    EXPECT_FALSE(query_migrate({.side = Side::destination, .status = Status::setup}).contains("socket-address"));
}

TEST_F(QueryMigrate, TheTransportIsShownOnEitherSideOnceItIsKnown) {
    TransportReport report;
    for (const Side side : {Side::source, Side::destination}) {
        EXPECT_FALSE(
            query_migrate({.side = side, .status = Status::setup, .transport = &report}).contains("x-pageferry-transport"));
    }
    report = {.candidate = 1,
              .uri = "tcp:h:1",
              .name = "tcp",
              .connection = "a -> b",
              .lanes = 2,
              .attempts = {{.uri = "rdma:h:1", .phase = "open", .reason = "no device", .error_desc = "open: no device"}}};
    for (const Side side : {Side::source, Side::destination}) {
        const json answer = query_migrate({.side = side, .status = Status::active, .progress = &progress, .transport = &report});
        EXPECT_EQ(answer["x-pageferry-transport"], shown(report));
        EXPECT_FALSE(query_migrate({.side = side, .transport = &report}).contains("x-pageferry-transport")) << "before the first";
    }
}

TEST_F(QueryMigrate, WithoutFiguresItHasItsStatusOnly) {
    const json answer = query_migrate({.status = Status::failed, .error = "no route", .total_time = milliseconds{5}});
    EXPECT_EQ(answer, (json{{"status", "failed"}, {"error-desc", "no route"}}));
}

TEST_F(QueryMigrate, TheErrorIsShownOnEitherSide) {
    for (const Side side : {Side::source, Side::destination}) {
        const json answer =
            query_migrate({.side = side, .status = Status::failed, .error = "the peer is gone", .progress = &progress});
        EXPECT_EQ(answer["error-desc"], "the peer is gone");
    }
    EXPECT_FALSE(ask(Status::failed).contains("error-desc"));
    EXPECT_EQ(query_migrate({.error = "of before"}), json::object()); // none: there is nothing to be wrong
}

TEST_F(QueryMigrate, TheErrorOfALossIsShownUntilARecoveryHasConnected) {
    for (const Side side : {Side::source, Side::destination}) {
        const auto shown_in = [&](Status status) {
            return query_migrate({.side = side, .status = status, .error = "the peer is gone"}).contains("error-desc");
        };
        EXPECT_TRUE(shown_in(Status::postcopy_paused));
        EXPECT_TRUE(shown_in(Status::postcopy_recover_setup));
        EXPECT_FALSE(shown_in(Status::postcopy_recover));
        EXPECT_FALSE(shown_in(Status::postcopy_active));
        EXPECT_FALSE(shown_in(Status::completed));
    }
}

TEST_F(QueryMigrate, BlockedReasonsAreShownInEveryState) {
    const std::array<std::string, 2> reasons{"vfio-pci hostdev0 writes RAM", "a \"second\""};
    for (std::size_t number = 0; number < statemachine::status_count; ++number) {
        const auto status = static_cast<Status>(number);
        json answer = query_migrate({.status = status, .progress = &progress, .blocked_reasons = reasons});
        EXPECT_EQ(answer["blocked-reasons"], json(reasons));
        answer.erase("blocked-reasons");
        EXPECT_EQ(answer, query_migrate({.status = status, .progress = &progress}));
    }
}

TEST_F(QueryMigrate, PagesAreOfTheSizeThereIs) {
    progress.page_size = 2 * mib;
    json figures = ram(Status::active);
    EXPECT_EQ(figures["page-size"], 2 * mib);
    EXPECT_EQ(figures["normal"], 25);
    EXPECT_EQ(figures["duplicate"], 10);
    EXPECT_EQ(figures["pages-per-second"], 10'000'000 / (2 * mib));
    progress.page_size = 0; // the mover has not said yet
    figures = ram(Status::active);
    EXPECT_EQ(figures["page-size"], 4096);
    EXPECT_EQ(figures["normal"], 50 * mib / 4096);
}

TEST_F(QueryMigrate, PartsOfPagesAreNotCounted) {
    progress.ram_transferred = 3 * 4096 + 4095;
    progress.ram_hole = 4095;
    progress.downtime_bytes = 0;
    const json figures = ram(Status::active);
    EXPECT_EQ(figures["normal"], 3);
    EXPECT_EQ(figures["normal-bytes"], 3 * 4096 + 4095);
    EXPECT_EQ(figures["duplicate"], 0);
}

TEST_F(QueryMigrate, ThroughputIsThePresentOneUntilItIsOver) {
    progress.ram_transferred = 1'000'000; // in two seconds: 4 Mbit/s
    progress.downtime_bytes = 0;
    EXPECT_EQ(ram(Status::active)["mbps"], 80.0);
    EXPECT_EQ(ram(Status::active)["pages-per-second"], 2441);
    EXPECT_EQ(ram(Status::completed)["mbps"], 4.0);
    EXPECT_EQ(ram(Status::completed)["pages-per-second"], 122);
    progress.bandwidth = 0; // not measured yet
    EXPECT_EQ(ram(Status::active)["mbps"], 4.0);
}

TEST_F(QueryMigrate, ThroughputHasTwoDecimals) {
    const std::array<std::pair<std::uint64_t, double>, 6> cases{
        {{1, 0.0}, {624, 0.0}, {626, 0.01}, {154'321, 1.23}, {154'500, 1.24}, {12'500'000'000, 100'000.0}}};
    for (const auto& [bandwidth, mbps] : cases) {
        progress.bandwidth = bandwidth;
        EXPECT_DOUBLE_EQ(ram(Status::active)["mbps"].get<double>(), mbps) << bandwidth;
    }
}

TEST_F(QueryMigrate, NoTimeGivesNoThroughput) {
    progress.bandwidth = 0;
    for (const Status status : {Status::active, Status::completed}) {
        const json figures = ram(status, milliseconds{0});
        EXPECT_EQ(figures["mbps"], 0.0);
        EXPECT_EQ(figures["pages-per-second"], 0);
    }
}

TEST_F(QueryMigrate, DowntimeIsRoundedUp) { // a guest that was stopped at all was not stopped for 0 ms
    const std::array<std::pair<std::uint64_t, int>, 6> cases{{{0, 0}, {1, 1}, {999, 1}, {1000, 1}, {1001, 2}, {41'001, 42}}};
    for (const auto& [microseconds, expected] : cases) {
        progress.downtime_us = microseconds;
        EXPECT_EQ(ask(Status::completed)["downtime"], expected) << microseconds;
    }
}

TEST_F(QueryMigrate, SetupTimeIsRoundedDown) {
    const std::array<std::pair<std::uint64_t, int>, 4> cases{{{0, 0}, {999, 0}, {1000, 1}, {1999, 1}}};
    for (const auto& [microseconds, expected] : cases) {
        progress.setup_us = microseconds;
        EXPECT_EQ(ask(Status::active)["setup-time"], expected) << microseconds;
    }
}

class QueryPostcopy : public QueryMigrate {
protected:
    void SetUp() override {
        QueryMigrate::SetUp();
        postcopy.requests = 12;
        postcopy.request_bytes = 12 * 4096;
        postcopy.bytes = 10 * mib;
        postcopy.faults = 20;
        postcopy.latency_ns = 1'000'100;
        postcopy.latency_faults = 10;
        postcopy.blocked_ns = 7'999'999;
        postcopy.other_faults = 2;
        postcopy.other_latency_ns = 801;
        postcopy.vcpus = 3;
        postcopy.latency[5] = 8; // [32, 64) microseconds
        postcopy.latency[9] = 2;
        postcopy.vcpu[0].blocked_ns = 5'000'000;
        postcopy.vcpu[0].faults = 4;
        postcopy.vcpu[0].latency_ns = 4'003;
        postcopy.vcpu[2].blocked_ns = 999'999;
        postcopy.vcpu[2].faults = 1;
        postcopy.vcpu[2].latency_ns = 77;
    }
    [[nodiscard]] json ask_side(Side side, Status status, bool blocktime = false) const {
        return query_migrate({.side = side,
                              .status = status,
                              .total_time = milliseconds{2000},
                              .progress = &progress,
                              .postcopy = &postcopy,
                              .postcopy_blocktime = blocktime});
    }
    engine::Postcopy postcopy;
};

TEST_F(QueryPostcopy, TheSourceCountsWhatWasPulled) {
    for (const Status status : {Status::postcopy_active, Status::postcopy_paused, Status::completed}) {
        const json figures = ask_side(Side::source, status)["ram"];
        EXPECT_EQ(figures["postcopy-requests"], 12);
        EXPECT_EQ(figures["postcopy-bytes"], 10 * mib);
        EXPECT_EQ(figures["precopy-bytes"], 45 * mib);
        EXPECT_EQ(figures["downtime-bytes"], 5 * mib);
        EXPECT_EQ(figures["multifd-bytes"], 50 * mib) << "what lanes pushed";
        EXPECT_EQ(figures["transferred"], 60 * mib + 12'345);
        EXPECT_EQ(figures["normal-bytes"], 60 * mib);
        EXPECT_EQ(figures["normal"], 60 * mib / 4096);
        EXPECT_EQ(figures["remaining"], status == Status::completed ? 0 : 30 * mib);
    }
}

TEST_F(QueryPostcopy, BothSidesHaveWhatIsOurs) {
    json answer = ask_side(Side::source, Status::postcopy_active)["x-pageferry-postcopy"];
    EXPECT_EQ(answer, (json{{"requests", 12}, {"bytes", 10 * mib}, {"missing", 30 * mib}}));
    for (const Status status : {Status::postcopy_device, Status::postcopy_active, Status::postcopy_paused,
                                Status::postcopy_recover, Status::completed}) {
        const json whole = ask_side(Side::destination, status);
        EXPECT_EQ(names_of(whole), (Names{"status", "x-pageferry-postcopy"})) << "as QEMU, and ours";
        answer = whole["x-pageferry-postcopy"];
        EXPECT_EQ(names_of(answer), (Names{"requests", "request-bytes", "bytes", "missing", "latency"}));
        EXPECT_EQ(answer["request-bytes"], 12 * 4096);
        EXPECT_EQ(answer["missing"], status == Status::completed ? 0 : 30 * mib);
        const json& latency = answer["latency"];
        ASSERT_EQ(latency["dist"].size(), engine::Postcopy::buckets);
        EXPECT_EQ(latency["dist"][5], 8);
        EXPECT_EQ(latency["dist"][9], 2);
        EXPECT_EQ(latency["p50-us"], 52.0) << "the fifth of eight in [32, 64)";
        EXPECT_EQ(latency["p99-us"], 998.4) << "rank 9.9 of ten, in [512, 1024)";
    }
    EXPECT_FALSE(ask(Status::completed).contains("x-pageferry-postcopy")) << "a precopy";
}

TEST_F(QueryPostcopy, BlocktimeIsShownWhereQemuDoes) {
    const Names qemus{"postcopy-blocktime",    "postcopy-vcpu-blocktime", "postcopy-latency",
                      "postcopy-latency-dist", "postcopy-vcpu-latency",   "postcopy-non-vcpu-latency"};
    for (const Side side : {Side::source, Side::destination}) {
        for (std::size_t number = 0; number < statemachine::status_count; ++number) {
            const auto status = static_cast<Status>(number);
            for (const bool blocktime : {false, true}) {
                const json answer = ask_side(side, status, blocktime);
                for (const auto& name : qemus) {
                    EXPECT_EQ(answer.contains(name), side == Side::destination && status == Status::completed && blocktime)
                        << name << " " << statemachine::name_of(status);
                }
            }
        }
    }
    const json answer = ask_side(Side::destination, Status::completed, true);
    EXPECT_EQ(answer["postcopy-blocktime"], 7) << "ms";
    EXPECT_EQ(answer["postcopy-vcpu-blocktime"], json({5, 0, 0}));
    EXPECT_EQ(answer["postcopy-latency"], 100'010) << "ns";
    EXPECT_EQ(answer["postcopy-vcpu-latency"], json({1000, 0, 77}));
    EXPECT_EQ(answer["postcopy-non-vcpu-latency"], 400);
    ASSERT_EQ(answer["postcopy-latency-dist"].size(), 24U);
    EXPECT_EQ(answer["postcopy-latency-dist"][5], 8);
    const json precopied = query_migrate(
        {.side = Side::destination, .status = Status::completed, .progress = &progress, .postcopy_blocktime = true});
    EXPECT_EQ(names_of(precopied), (Names{"status"}));
}

TEST_F(QueryPostcopy, WithoutAFaultThereIsNoLatency) {
    const engine::Postcopy none;
    const json answer = query_migrate({.side = Side::destination,
                                       .status = Status::completed,
                                       .progress = &progress,
                                       .postcopy = &none,
                                       .postcopy_blocktime = true});
    EXPECT_EQ(answer["postcopy-latency"], 0);
    EXPECT_EQ(answer["postcopy-non-vcpu-latency"], 0);
    EXPECT_EQ(answer["postcopy-vcpu-latency"], json::array());
    EXPECT_EQ(answer["postcopy-vcpu-blocktime"], json::array());
    EXPECT_EQ(names_of(answer["x-pageferry-postcopy"]["latency"]), (Names{"dist"}));
}

TEST_F(QueryPostcopy, WithoutFiguresOfProgressWhatIsMissingIsNotKnown) {
    const json answer = query_migrate({.side = Side::destination, .status = Status::postcopy_paused, .postcopy = &postcopy});
    EXPECT_FALSE(answer["x-pageferry-postcopy"].contains("missing"));
}

TEST(QueryMigrateOfAMadMover, FiguresOfPostcopyAtTheirEnd) {
    constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
    engine::Progress progress;
    progress.ram_transferred = most;
    progress.device_bytes = most;
    engine::Postcopy postcopy;
    postcopy.bytes = most;
    postcopy.blocked_ns = most;
    postcopy.vcpus = most;
    for (auto& bucket : postcopy.latency) {
        bucket = most;
    }
    for (auto& vcpu : postcopy.vcpu) {
        vcpu.blocked_ns = most;
        vcpu.faults = 1;
        vcpu.latency_ns = most;
    }
    const json source = query_migrate({.status = statemachine::Status::completed, .progress = &progress, .postcopy = &postcopy});
    EXPECT_EQ(source["ram"]["transferred"], most);
    const json answer = query_migrate({.side = Side::destination,
                                       .status = Status::completed,
                                       .progress = &progress,
                                       .postcopy = &postcopy,
                                       .postcopy_blocktime = true});
    EXPECT_EQ(answer["postcopy-vcpu-latency"].size(), engine::Postcopy::most_vcpus);
    EXPECT_EQ(answer["postcopy-vcpu-latency"].back(), most);
    EXPECT_EQ(answer["postcopy-blocktime"], std::numeric_limits<std::uint32_t>::max()) << "QEMU's type is smaller";
    EXPECT_EQ(answer["x-pageferry-postcopy"]["latency"]["dist"].back(), most);
}

TEST(QueryMigrateOfAMadMover, PageCountsDoNotWrapAround) {
    engine::Progress progress;
    progress.ram_transferred = 4096;
    progress.downtime_bytes = 8192;
    const json answer = query_migrate({.status = statemachine::Status::active, .progress = &progress});
    EXPECT_LE(answer["ram"]["precopy-bytes"].get<std::uint64_t>(), 8192U) << answer["ram"]["precopy-bytes"];
}

TEST(QueryMigrateOfAMadMover, APageSizeThatIsTakenBackDoesNotKill) { // SIGFPE
    engine::Progress progress;
    std::jthread mad{[&](const std::stop_token& stop) {
        while (!stop.stop_requested()) {
            progress.page_size = 4096;
            progress.page_size = 0;
        }
    }};
    for (int i = 0; i < 10'000; ++i) {
        const json answer = query_migrate({.status = statemachine::Status::active, .progress = &progress});
        ASSERT_TRUE(answer.contains("ram"));
    }
}

} // namespace
} // namespace pageferry::hypervisor
