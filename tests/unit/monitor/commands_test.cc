#include "bench.h"

#include "monitor/arguments.h"
#include "monitor/passed_sockets.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <fstream>
#include <optional>

namespace pageferry::monitor::test {
namespace {

using statemachine::Side;
using statemachine::Status;

struct Commands : testing::Test {
    FakeService service;
    Capabilities capabilities;
    Parameters parameters;
    MigrationCommands commands{service, capabilities, parameters, [](const std::string& scheme) { return scheme == "chaos"; }};
    PassedSockets sockets{[this](const std::string& name) { closed_at_qemu.push_back(name); }};
    std::vector<std::string> closed_at_qemu;
    bool passed = false;
    bool begins_native = false;

    json run(const std::string& command, const json& arguments = json::object()) {
        std::optional<json> result;
        passed = false;
        commands.handle(
            command, arguments,
            [&](const QmpResult& answer) {
                ASSERT_FALSE(result.has_value());
                result = answer ? json{{"return", *answer}}
                                : json{{"error", {{"class", answer.error().error_class}, {"desc", answer.error().desc}}}};
            },
            [&](bool begins) {
                passed = true;
                begins_native = begins;
            },
            sockets);
        EXPECT_NE(result.has_value(), passed);
        return result.value_or(json(nullptr));
    }
    std::string error(const std::string& command, const json& arguments = json::object()) {
        const json answer = run(command, arguments);
        return answer.contains("error") ? answer["error"]["desc"].get<std::string>() : "";
    }
};

const json done = {{"return", json::object()}};

TEST_F(Commands, RefusalsOfAnIdleGuestAreQemus) {
    std::ifstream file{PAGEFERRY_TEST_DATA "/qemu-11.1-traces.json"};
    const json traces = json::parse(file, nullptr, false);
    ASSERT_TRUE(traces.is_object());
    for (const char* side : {"src", "dst"}) {
        service.at = std::string{side} == "src" ? Side::source : Side::destination;
        for (const json& entry : traces["refusals_idle"][side]) {
            json arguments = entry["arguments"];
            if (arguments.contains("uri")) {
                arguments["uri"] = arguments["uri"].get<std::string>().starts_with("bogus") ? "bogus:1" : "tcp:127.0.0.1:1";
            }
            json want = entry;
            want.erase("command");
            want.erase("arguments");
            EXPECT_EQ(run(entry["command"], arguments), want) << entry;
        }
    }
    EXPECT_TRUE(service.asked.empty());
}

TEST_F(Commands, MigrateGoesToTheService) {
    EXPECT_EQ(run("migrate", {{"uri", "tcp:h:1"}, {"detach", true}}), done);
    EXPECT_EQ(run("migrate", {{"uri", "chaos:h:1"}}), done);
    EXPECT_EQ(run("migrate", {{"uri", "rdma:[fe80::1%eth0]:4444"}, {"resume", false}}), done);
    EXPECT_EQ(service.asked, (std::vector<std::string>{"migrate tcp:h:1", "migrate chaos:h:1",
                                                       "migrate rdma:[fe80::1%eth0]:4444 tcp:[fe80::1%eth0]:4444"}));
}

TEST_F(Commands, ChannelsAreReadAsAddresses) {
    const auto channels = [](const json& address) { return json{{"channels", {{{"channel-type", "main"}, {"addr", address}}}}}; };
    EXPECT_EQ(run("migrate", channels({{"transport", "socket"}, {"type", "inet"}, {"host", "h"}, {"port", "1"}})), done);
    EXPECT_EQ(
        run("migrate", channels({{"transport", "socket"}, {"type", "inet"}, {"host", "::1"}, {"port", "1"}, {"ipv6", true}})),
        done);
    EXPECT_EQ(run("migrate", channels({{"transport", "socket"}, {"type", "unix"}, {"path", "/p"}})), done);
    EXPECT_EQ(run("migrate", channels({{"transport", "rdma"}, {"host", "h"}, {"port", "1"}})), done);
    EXPECT_EQ(service.asked, (std::vector<std::string>{"migrate tcp:h:1", "migrate tcp:[::1]:1", "migrate unix:/p",
                                                       "migrate rdma:h:1 tcp:h:1"}));
    EXPECT_EQ(error("migrate", channels({{"transport", "pigeon"}})), "Parameter 'transport' does not accept value 'pigeon'");
    EXPECT_EQ(error("migrate", channels({{"transport", "rdma"}, {"host", "h"}})), "Parameter 'channels[0].addr.port' is missing");
    EXPECT_EQ(error("migrate", {{"channels", {5}}}), "Invalid parameter type for 'channels[0]', expected: object");
    EXPECT_EQ(error("migrate", {{"channels", json::array()}}), "need either 'uri' or 'channels' argument");
    json twice = channels({{"transport", "rdma"}, {"host", "h"}, {"port", "1"}});
    twice["channels"].push_back(twice["channels"][0]);
    EXPECT_EQ(error("migrate", twice), "Channel list has more than one main entry");
    service.at = Side::destination;
    EXPECT_EQ(error("migrate-incoming", twice), "Channel list must have only one entry, for type 'main'");
    json both = channels({{"transport", "rdma"}, {"host", "h"}, {"port", "1"}});
    both["uri"] = "tcp:h:1";
    EXPECT_EQ(error("migrate-incoming", both), "need either 'uri' or 'channels' argument");
}

TEST_F(Commands, SeveralUrisAreAllOfOurs) {
    const auto uris = [](const json& list) { return json{{"uris", list}}; };
    EXPECT_EQ(run("migrate", uris({"unix:/p", "tcp:h:1", "unix:/p"})), done);
    EXPECT_EQ(run("migrate", uris({"chaos:h:1"})), done);
    EXPECT_EQ(service.asked, (std::vector<std::string>{"migrate unix:/p tcp:h:1", "migrate chaos:h:1"}));
    EXPECT_EQ(error("migrate", uris({"tcp:h:1", "exec:cat"})),
              "'uris' is for migrations that Pageferry carries, exec:cat is QEMU's own: give it as 'uri'");
    EXPECT_EQ(error("migrate", uris({"tcp:h:1", "bogus:1"})), "unknown migration protocol: bogus:1");
    EXPECT_NE(error("migrate", uris({"tcp:h:1", "tcp:h"})), "");
    EXPECT_EQ(error("migrate", uris(json::array())), "Parameter 'uris' expects 1 to 8 URIs");
    EXPECT_EQ(error("migrate", uris(std::vector<std::string>(9, "tcp:h:1"))), "Parameter 'uris' expects 1 to 8 URIs");
    EXPECT_EQ(run("migrate", uris(std::vector<std::string>(8, "tcp:h:1"))), done);
    EXPECT_EQ(service.asked.back(), "migrate tcp:h:1");
    EXPECT_EQ(error("migrate", uris("tcp:h:1")), "Invalid parameter type for 'uris', expected: array");
    EXPECT_EQ(error("migrate", uris({"tcp:h:1", 5})), "Invalid parameter type for 'uris[1]', expected: string");
    EXPECT_EQ(error("migrate", {{"uri", "tcp:h:1"}, {"uris", {"tcp:h:1"}}}),
              "need only one of the arguments 'uri', 'channels' and 'uris'");
    service.at = Side::destination;
    EXPECT_EQ(run("migrate-incoming", uris({"rdma:h:1", "unix:/p"})), done);
    EXPECT_EQ(service.asked.back(), "migrate-incoming rdma:h:1 unix:/p");
}

TEST_F(Commands, ThePolicyForRdmaChoosesTheTransports) {
    const auto set = [&](const char* policy) {
        EXPECT_EQ(run("migrate-set-parameters", {{"x-pageferry-rdma", policy}}), done);
        EXPECT_EQ(run("query-migrate-parameters")["return"]["x-pageferry-rdma"], policy);
    };
    EXPECT_EQ(run("query-migrate-parameters")["return"]["x-pageferry-rdma"], "preferred");
    EXPECT_EQ(run("migrate", {{"uri", "rdma:h:1"}}), done);
    EXPECT_EQ(service.asked.back(), "migrate rdma:h:1 tcp:h:1");
    set("required");
    EXPECT_EQ(run("migrate", {{"uris", {"tcp:h:1", "rdma:h:1"}}}), done);
    EXPECT_EQ(service.asked.back(), "migrate rdma:h:1 instead");
    EXPECT_TRUE(error("migrate", {{"uri", "tcp:h:1"}}).contains("is 'required', but no rdma: URI is given"));
    set("off");
    EXPECT_EQ(run("migrate", {{"uri", "rdma:h:1"}}), done);
    EXPECT_EQ(service.asked.back(), "migrate tcp:h:1 instead");
    EXPECT_EQ(error("migrate-set-parameters", {{"x-pageferry-rdma", "maybe"}}),
              "Parameter 'x-pageferry-rdma' does not accept value 'maybe'");
    service.at = Side::destination;
    set("required");
    EXPECT_NE(error("migrate-incoming", {{"uri", "tcp:h:1"}}), "");
    EXPECT_EQ(run("migrate-incoming", {{"uri", "rdma:h:1"}}), done) << "the refused one has not begun";
    service.now = Status::postcopy_paused;
    EXPECT_EQ(run("migrate-recover", {{"uris", {"rdma:h:1", "tcp:h:2"}}}), done);
    EXPECT_EQ(service.asked.back(), "migrate-recover rdma:h:1");
}

TEST_F(Commands, FdExecAndFileAreHandedToQemu) {
    for (const char* uri : {"fd:migrate", "exec:cat >/dev/null", "file:/tmp/x"}) {
        service.native = false;
        EXPECT_EQ(run("migrate", {{"uri", uri}}), json(nullptr)) << uri;
        EXPECT_TRUE(passed && begins_native);
    }
    EXPECT_EQ(run("query-migrate"), json(nullptr)) << "QEMU's own, while it migrates";
    EXPECT_TRUE(passed && !begins_native);
    EXPECT_EQ(run("migrate", {{"uri", "fd:again"}}), json(nullptr)) << "QEMU refuses it; the first one goes on";
    EXPECT_TRUE(passed && !begins_native);
    service.native = false;
    service.refuse_native = true;
    EXPECT_EQ(error("migrate", {{"uri", "fd:x"}}), "hand over QEMU: not now");
    service.now = Status::active;
    EXPECT_EQ(error("migrate", {{"uri", "fd:x"}}), "There's a migration process in progress");
}

// As libvirt does it: it connects, passes the socket, and says where by its name.
TEST_F(Commands, APassedSocketSaysWhereToMigrate) {
    const json by_fd{{"uri", "fd:migrate"}};
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* const general = reinterpret_cast<sockaddr*>(&address); // NOLINT(*-reinterpret-cast)
    const Fd listener{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    ASSERT_EQ(::bind(listener.get(), general, length), 0);
    ASSERT_EQ(::listen(listener.get(), 4), 0);
    ASSERT_EQ(::getsockname(listener.get(), general, &length), 0);
    std::vector<Fd> passed_fd;
    passed_fd.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::connect(passed_fd.front().get(), general, length), 0);
    const std::string there = "tcp:127.0.0.1:" + std::to_string(ntohs(address.sin_port));

    sockets.passed("migrate", passed_fd);
    service.now = Status::active;
    EXPECT_EQ(error("migrate", by_fd), "There's a migration process in progress");
    EXPECT_EQ(sockets.peer("migrate"), there) << "a refusal changes nothing";
    service.now = Status::none;
    EXPECT_EQ(run("migrate", by_fd), done);
    EXPECT_EQ(service.asked.back(), "migrate " + there);
    EXPECT_EQ(closed_at_qemu, std::vector<std::string>{"migrate"});

    EXPECT_EQ(run("migrate", by_fd), json(nullptr)) << "it is gone: QEMU's to say so";
    EXPECT_TRUE(passed && begins_native);

    service.native = false;
    sockets.passed("migrate", passed_fd);
    ASSERT_EQ(run("migrate-set-parameters", {{"x-pageferry-carrier", "qemu"}}), done);
    EXPECT_EQ(run("migrate", by_fd), json(nullptr));
    EXPECT_TRUE(passed && begins_native) << "the policy leaves it to QEMU";
}

TEST_F(Commands, ThePolicyLeavesMigrationsToQemu) {
    ASSERT_EQ(run("migrate-set-parameters", {{"x-pageferry-carrier", "qemu"}}), done);
    EXPECT_EQ(run("migrate", {{"uri", "tcp:h:1"}}), json(nullptr));
    EXPECT_TRUE(passed && begins_native);
    EXPECT_EQ(run("migrate", {{"uri", "tcp:h:1"}}), json(nullptr)) << "while it lasts everything is QEMU's";
    EXPECT_TRUE(passed && !begins_native);
    service.native = false;
    service.at = Side::destination;
    EXPECT_EQ(run("migrate-incoming", {{"uri", "tcp:0:1"}}), json(nullptr));
    EXPECT_TRUE(passed && begins_native);
    service.native = false;
    ASSERT_EQ(run("migrate-set-parameters", {{"x-pageferry-carrier", "pageferry"}}), done);
    EXPECT_EQ(run("migrate-incoming", {{"uri", "tcp:0:1"}}), done);
    EXPECT_EQ(error("migrate-set-parameters", {{"x-pageferry-carrier", "pigeon"}}),
              "Parameter 'x-pageferry-carrier' does not accept value 'pigeon'");
}

TEST_F(Commands, TheHumanMonitorsMigrationsAreRefusedWithTheQmpCommand) {
    const auto human = [](const std::string& line) { return json{{"command-line", line}}; };
    EXPECT_NE(error("human-monitor-command", human("migrate -d tcp:h:1")).find("use the QMP command migrate"), std::string::npos);
    EXPECT_TRUE(error("human-monitor-command", human("  migrate_set_parameter x 1")).ends_with("migrate-set-parameters"));
    EXPECT_TRUE(error("human-monitor-command", human("migrate_cancel")).ends_with("migrate_cancel"));
    for (const json& other : {human("info migrate"), human("migration"), human(""), human("savevm migrate"), json::object(),
                              json{{"command-line", 5}}}) {
        EXPECT_EQ(run("human-monitor-command", other), json(nullptr)) << other;
        EXPECT_TRUE(passed && !begins_native);
    }
    EXPECT_TRUE(service.asked.empty());
}

TEST_F(Commands, AMalformedUriIsRefusedBeforeAnythingHappens) {
    for (const char* uri : {"tcp:", "tcp:host", "tcp:host:99999", "tcp:[::1:4", "unix:", "rdma:h:x"}) {
        EXPECT_NE(error("migrate", {{"uri", uri}}), "") << uri;
    }
    EXPECT_EQ(error("migrate", {{"uri", ""}}), "unknown migration protocol: ");
    EXPECT_EQ(error("migrate", {{"uri", 5}}), "Invalid parameter type for 'uri', expected: string");
    EXPECT_EQ(error("migrate", {{"uri", "tcp:h:1"}, {"foo", 1}}), "Parameter 'foo' is unexpected");
    EXPECT_TRUE(service.asked.empty());
}

TEST_F(Commands, StatesThatForbidMigrate) {
    for (const Status status :
         {Status::setup, Status::active, Status::pre_switchover, Status::device, Status::cancelling, Status::failing}) {
        service.now = status;
        EXPECT_EQ(error("migrate", {{"uri", "tcp:h:1"}}), "There's a migration process in progress");
        EXPECT_EQ(error("migrate-set-capabilities", {{"capabilities", json::array()}}),
                  "There's a migration process in progress");
    }
    for (const Status status : {Status::none, Status::failed, Status::cancelled}) {
        service.now = status;
        EXPECT_EQ(run("migrate", {{"uri", "tcp:h:1"}}), done);
    }
    service.now = Status::none;
    service.at = Side::destination;
    EXPECT_EQ(error("migrate", {{"uri", "tcp:h:1"}}), "Guest is waiting for an incoming migration");
    for (const Status status : {Status::postcopy_active, Status::postcopy_paused, Status::postcopy_recover}) {
        service.now = status;
        EXPECT_EQ(error("migrate", {{"uri", "tcp:h:1"}}), "There's a migration process in progress") << "it is not whole yet";
        EXPECT_EQ(error("migrate", {{"uri", "tcp:h:1"}, {"resume", true}}), "Cannot resume if there is no paused migration");
    }
}

TEST_F(Commands, IncomingOnceAndOnlyWhereItWasAskedFor) {
    EXPECT_EQ(error("migrate-incoming", {{"uri", "tcp:h:1"}}), "'-incoming' was not specified on the command line");
    service.at = Side::destination;
    EXPECT_EQ(run("migrate-incoming", {{"uri", "tcp:h:1"}, {"exit-on-error", false}}), done);
    EXPECT_EQ(service.asked.back(), "migrate-incoming tcp:h:1 stay");
    EXPECT_EQ(error("migrate-incoming", {{"uri", "tcp:h:1"}}), "The incoming migration has already been started");
}

TEST_F(Commands, IncomingFromTheCommandLineCountsAsStarted) {
    service.at = Side::destination;
    service.now = Status::setup;
    EXPECT_EQ(error("migrate-incoming", {{"uri", "tcp:h:1"}}), "The incoming migration has already been started");
}

TEST_F(Commands, CancelContinuePauseAndRecoverByState) {
    service.now = Status::active;
    EXPECT_EQ(run("migrate_cancel"), done);
    EXPECT_EQ(service.asked.back(), "migrate_cancel");
    EXPECT_EQ(error("migrate-continue", {{"state", "pre-switchover"}}), "Migration not in expected state: active");
    service.now = Status::pre_switchover;
    EXPECT_EQ(run("migrate-continue", {{"state", "pre-switchover"}}), done);
    EXPECT_EQ(service.asked.back(), "migrate-continue");
    EXPECT_EQ(error("migrate-continue", {{"state", "zork"}}), "Parameter 'state' does not accept value 'zork'");
    EXPECT_EQ(error("migrate-continue"), "Parameter 'state' is missing");
    service.now = Status::postcopy_active;
    EXPECT_EQ(error("migrate_cancel"), "Postcopy migration in progress, cannot cancel.");
    EXPECT_EQ(run("migrate-pause"), done);
    service.now = Status::postcopy_paused;
    EXPECT_EQ(run("migrate", {{"uri", "tcp:h:1"}, {"resume", true}}), done);
    EXPECT_EQ(service.asked.back(), "migrate tcp:h:1 resume");
    service.at = Side::destination;
    EXPECT_EQ(run("migrate-recover", {{"uri", "tcp:h:2"}}), done);
    EXPECT_EQ(service.asked.back(), "migrate-recover tcp:h:2");
    EXPECT_EQ(error("migrate-recover"), "Parameter 'uri' is missing");
    EXPECT_EQ(run("migrate_cancel"), done) << "nothing to cancel is no error";
}

TEST_F(Commands, ContAndStopAreHeldOrPassedOn) {
    service.hold = true;
    EXPECT_EQ(run("cont"), done);
    EXPECT_EQ(run("stop"), done);
    service.hold = false;
    EXPECT_EQ(run("cont"), json(nullptr));
    EXPECT_TRUE(passed);
    service.hold = true;
    EXPECT_EQ(run("cont", {{"x", 1}}), json(nullptr)) << "QEMU's own refusal";
    service.hold_refusal = "Migration is not finalized yet";
    EXPECT_EQ(error("cont"), service.hold_refusal);
    EXPECT_FALSE(passed);
    EXPECT_EQ(run("cont", {{"x", 1}}), json(nullptr));
}

TEST_F(Commands, APauseGivesUpAnAttemptToConnectAgainToo) {
    const std::string refusal = "migrate-pause is currently only supported during postcopy-active or postcopy-recover state";
    for (std::size_t number = 0; number < statemachine::status_count; ++number) {
        service.now = static_cast<Status>(number);
        const bool taken = service.now == Status::postcopy_active || service.now == Status::postcopy_recover ||
                           service.now == Status::postcopy_recover_setup;
        EXPECT_EQ(error("migrate-pause"), taken ? "" : refusal) << statemachine::name_of(service.now);
    }
    EXPECT_EQ(service.asked, (std::vector<std::string>(3, "migrate-pause")));
}

TEST_F(Commands, PostcopyStartsInAMigrationThatHasBegun) {
    EXPECT_EQ(error("migrate-start-postcopy"), "Enable postcopy with migrate_set_capability before the start of migration");
    EXPECT_EQ(run("migrate-set-capabilities", {{"capabilities", {{{"capability", "postcopy-ram"}, {"state", true}}}}}), done);
    EXPECT_EQ(error("migrate-start-postcopy"), "Postcopy must be started after migration has been started");
    service.at = Side::destination;
    service.now = Status::active;
    EXPECT_EQ(error("migrate-start-postcopy"), "Postcopy must be started after migration has been started")
        << "the incoming one does not count";
    service.at = Side::source;
    for (const Status status : {Status::setup, Status::active, Status::pre_switchover, Status::device}) {
        service.now = status;
        service.asked.clear();
        EXPECT_EQ(run("migrate-start-postcopy"), done);
        EXPECT_EQ(service.asked, (std::vector<std::string>{"migrate-start-postcopy"}));
    }
    service.asked.clear();
    for (const Status status :
         {Status::postcopy_device, Status::postcopy_active, Status::postcopy_paused, Status::postcopy_recover_setup,
          Status::postcopy_recover, Status::completed, Status::failed, Status::cancelled}) {
        service.now = status;
        EXPECT_EQ(run("migrate-start-postcopy"), done) << "too late is no error";
    }
    EXPECT_TRUE(service.asked.empty());
}

TEST_F(Commands, WhatTheDestinationAgreedToListenWithStays) {
    const auto set = [](const char* name, bool on) { return json{{"capabilities", {{{"capability", name}, {"state", on}}}}}; };
    service.at = Side::destination;
    EXPECT_EQ(run("migrate-set-capabilities", set("multifd", true)), done);
    EXPECT_EQ(run("migrate-incoming", {{"uri", "tcp:h:1"}}), done);
    EXPECT_EQ(run("migrate-set-capabilities", set("multifd", true)), done) << "it is on already";
    EXPECT_EQ(run("migrate-set-capabilities", set("multifd", false)), done);
    EXPECT_EQ(error("migrate-set-capabilities", set("multifd", true)), "Multifd must be set before incoming starts");
    EXPECT_EQ(run("migrate-set-capabilities", set("postcopy-ram", true)), done);
    EXPECT_EQ(error("migrate-set-capabilities", set("postcopy-preempt", true)),
              "Postcopy preempt must be set before incoming starts");
    service.at = Side::source; // the guest has come in
    EXPECT_EQ(run("migrate-set-capabilities", set("postcopy-preempt", true)), done);
}

TEST_F(Commands, ADestinationSaysWhyItCannotDoPostcopy) {
    const json on = {{"capabilities", {{{"capability", "postcopy-ram"}, {"state", true}}}}};
    service.postcopy_refusal = "Userfaultfd not available: Operation not permitted";
    EXPECT_EQ(run("migrate-set-capabilities", on), done) << "a source needs nothing for it";
    EXPECT_EQ(run("migrate-set-capabilities", {{"capabilities", {{{"capability", "postcopy-ram"}, {"state", false}}}}}), done);
    service.at = Side::destination;
    EXPECT_EQ(error("migrate-set-capabilities", on),
              "Postcopy is not supported: Userfaultfd not available: Operation not permitted");
    EXPECT_FALSE(capabilities.on("postcopy-ram"));
    service.postcopy_refusal.clear();
    EXPECT_EQ(run("migrate-set-capabilities", on), done);
}

TEST_F(Commands, QueriesTakeNoArgumentsAndParametersAreAnnounced) {
    EXPECT_EQ(run("query-migrate"), json({{"return", {{"status", "fake"}}}}));
    EXPECT_EQ(error("query-migrate", {{"x", 1}}), "Parameter 'x' is unexpected");
    EXPECT_EQ(run("query-migrate-capabilities")["return"].size(), 21U);
    EXPECT_EQ(run("migrate-set-parameters", {{"downtime-limit", 5}}), done);
    EXPECT_EQ(service.asked, (std::vector<std::string>{"parameters"}));
    EXPECT_EQ(run("query-migrate-parameters")["return"]["downtime-limit"], 5);
}

TEST_F(Commands, OutOfBandIsForWhatQemuAllowsThere) {
    EXPECT_TRUE(MigrationCommands::knows("migrate-pause", true));
    EXPECT_FALSE(MigrationCommands::knows("migrate", true));
    EXPECT_FALSE(MigrationCommands::knows("query-status", false));
}

} // namespace
} // namespace pageferry::monitor::test
