// The answer to query-migrate: which members it has in which state, and how they are reckoned.
#include "hypervisor/monitor_process/query_migrate.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <array>
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
        const bool under_way = status != Status::none && status != Status::setup && status != Status::completed &&
                               status != Status::failed && status != Status::cancelled;
        EXPECT_EQ(answer.contains("expected-downtime"), under_way) << statemachine::name_of(status);
        EXPECT_EQ(answer.contains("downtime"), status == Status::completed) << statemachine::name_of(status);
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
    for (int i = 0; i < 100'000; ++i) {
        const json answer = query_migrate({.status = statemachine::Status::active, .progress = &progress});
        ASSERT_TRUE(answer.contains("ram"));
    }
}

} // namespace
} // namespace pageferry::hypervisor
