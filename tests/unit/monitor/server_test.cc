// The server between a client on a real socket and a scripted peer in QEMU's role.
#include "bench.h"

#include <gtest/gtest.h>

#include <sys/socket.h>
#include <unistd.h>

#include <array>

namespace pageferry::monitor::test {
namespace {

const json done = {{"return", json::object()}};

struct Server : testing::Test {
    Bench bench;
    std::pair<Fd, Fd> pair = socket_pair();
    Peer qemu{bench.io, std::move(pair.second)};
    FakeService& service = bench.service;

    void SetUp() override {
        bench.serve("qmp", std::move(pair.first));
        greet(qemu);
    }
    Peer client(bool oob = false) { return bench.command_mode("qmp", oob); }
    void events_on() {
        ASSERT_TRUE(bench.capabilities.set({{"capabilities", {{{"capability", "events"}, {"state", true}}}}}).has_value());
    }
    static json status(const char* name) { return {{"status", name}}; }
};

TEST_F(Server, ShowsQemusGreetingAndAsksForNegotiation) {
    Peer client = bench.connect("qmp");
    EXPECT_EQ(client.next_text(), greeting_text);
    client.say(command("query-status", 7));
    EXPECT_EQ(client.next(),
              json({{"id", 7},
                    {"error",
                     {{"class", "CommandNotFound"}, {"desc", "Expecting capabilities negotiation with 'qmp_capabilities'"}}}}));
    client.say(command("qmp_capabilities", nullptr, {{"enable", {"xyz"}}}));
    EXPECT_EQ(client.next()["error"]["desc"], "Parameter 'null' does not accept value 'xyz'");
    client.say(command("qmp_capabilities", nullptr, {{"enable", 5}}));
    EXPECT_EQ(client.next()["error"]["desc"], "Invalid parameter type for 'enable', expected: array");
    client.say(command("qmp_capabilities", "x"));
    EXPECT_EQ(client.next(), json({{"return", json::object()}, {"id", "x"}}));
    client.say(command("qmp_capabilities"));
    EXPECT_EQ(client.next()["error"],
              json({{"class", "CommandNotFound"}, {"desc", "Capabilities negotiation is already complete, command ignored"}}));
    EXPECT_TRUE(qemu.quiet()) << "none of it is QEMU's business";
}

TEST_F(Server, PassesMessagesThroughAsTheyAreButForWhiteSpace) {
    Peer c = client();
    c.send("{ \"execute\" :'query-x', \"id\":{\"b\":1.50,\"a\":[ ]} }\n");
    EXPECT_EQ(qemu.next_text(), "{\"execute\":'query-x',\"id\":{\"b\":1.50,\"a\":[]}}");
    const std::string answer = "{\"id\":  {\"b\":1.50,\"a\":[]}, \"return\": [1,  2]}";
    qemu.send(answer + "\r\n");
    EXPECT_EQ(c.next_text(), answer);
}

TEST_F(Server, KeepsTheOrderOfOwnAndForeignAnswers) {
    Peer c = client();
    c.send("{\"execute\":\"query-a\",\"id\":1}{\"execute\":\"query-migrate\",\"id\":2}{\"execute\":\"query-b\",\"id\":3}");
    EXPECT_EQ(qemu.next()["id"], 1);
    EXPECT_TRUE(qemu.quiet());
    EXPECT_TRUE(c.quiet()) << "our own answer waits for QEMU's";
    qemu.say({{"id", 1}, {"return", 1}});
    EXPECT_EQ(c.next()["id"], 1);
    EXPECT_EQ(c.next()["return"], status("fake"));
    EXPECT_EQ(qemu.next()["id"], 3);
}

TEST_F(Server, AnAnswerThatComesLaterKeepsTheNextCommandWaiting) {
    Reply later;
    service.on_migrate = [&](Reply reply) { later = std::move(reply); };
    Peer c = client();
    c.send("{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:h:1\"}}{\"execute\":\"query-b\"}");
    ASSERT_TRUE(run_until(bench.io, [&] { return static_cast<bool>(later); }));
    EXPECT_TRUE(qemu.quiet());
    events_on();
    bench.sink.broadcast("MIGRATION", status("setup"));
    later({});
    EXPECT_EQ(c.next()["data"], status("setup")) << "the event is on the wire before the answer";
    EXPECT_EQ(c.next(), done);
    EXPECT_EQ(qemu.next()["execute"], "query-b");
}

TEST_F(Server, OutOfBandCommandsDoNotWait) {
    Peer c = client(true);
    c.say(command("query-slow", 1));
    EXPECT_EQ(qemu.next()["id"], 1);
    c.say({{"exec-oob", "yank"}, {"id", 2}});
    EXPECT_EQ(qemu.next()["exec-oob"], "yank");
    qemu.say({{"id", 2}, {"return", json::object()}});
    EXPECT_EQ(c.next()["id"], 2);
    service.now = statemachine::Status::postcopy_active;
    c.say({{"exec-oob", "migrate-pause"}, {"id", 3}});
    EXPECT_EQ(c.next(), json({{"id", 3}, {"return", json::object()}}));
    qemu.say({{"id", 1}, {"return", 1}});
    EXPECT_EQ(c.next()["id"], 1);
}

TEST_F(Server, OutOfBandWithoutEnablingItIsRefused) {
    Peer c = client();
    c.say({{"exec-oob", "yank"}, {"id", 2}});
    EXPECT_EQ(c.next(),
              json({{"id", 2}, {"error", {{"class", "GenericError"}, {"desc", "QMP input member 'exec-oob' is unexpected"}}}}));
    EXPECT_TRUE(qemu.quiet());
}

TEST_F(Server, GarbageIsAnsweredAndTheSessionGoesOn) {
    Peer c = client();
    c.send("@\n{\"execute\" 1}\xff");
    EXPECT_EQ(c.next()["error"]["desc"], "JSON parse error, stray '@'");
    EXPECT_EQ(c.next()["error"]["desc"], "JSON parse error, missing : in object pair");
    EXPECT_TRUE(c.next().contains("error"));
    c.say(command("query-migrate"));
    EXPECT_EQ(c.next()["return"], status("fake"));
    EXPECT_TRUE(qemu.quiet()) << "none of it reached QEMU";
}

TEST_F(Server, WhatIsNoCommandIsQemusToRefuse) {
    Peer c = client();
    c.send("[1]{\"execute\":\"migrate\",\"foo\":1}");
    EXPECT_EQ(qemu.next(), json({1}));
    qemu.say({{"error", {{"class", "GenericError"}, {"desc", "a"}}}});
    EXPECT_EQ(c.next()["error"]["desc"], "a");
    EXPECT_EQ(qemu.next()["foo"], 1);
    EXPECT_TRUE(service.asked.empty());
}

TEST_F(Server, DescriptorsGoWithTheMessageTheyCameWith) {
    Peer c = client();
    std::array<int, 2> pipe{};
    ASSERT_EQ(::pipe(pipe.data()), 0);
    const Fd reader{pipe[0]};
    Fd writer{pipe[1]};
    c.send(command("getfd", 1, {{"fdname", "x"}}).dump(), {writer.get()});
    writer.reset();
    EXPECT_EQ(qemu.next()["execute"], "getfd");
    ASSERT_EQ(qemu.fds.size(), 1U);
    ASSERT_EQ(::write(qemu.fds[0].get(), "k", 1), 1);
    char byte = 0;
    EXPECT_EQ(::read(reader.get(), &byte, 1), 1);
    EXPECT_EQ(byte, 'k');
    qemu.fds.clear();
    EXPECT_EQ(::read(reader.get(), &byte, 1), 0) << "nobody else has a copy";
}

TEST_F(Server, AClientThatLeavesInTheMiddleLeavesNothingBehind) {
    std::array<int, 2> pipe{};
    ASSERT_EQ(::pipe(pipe.data()), 0);
    const Fd reader{pipe[0]};
    {
        const Fd writer{pipe[1]};
        Peer c = client();
        c.send("{\"execute\":\"query-a\",\"id\":1}");
        EXPECT_EQ(qemu.next()["id"], 1);
        c.send("{\"execute\":\"half a mess", {writer.get()});
        EXPECT_TRUE(qemu.quiet());
    }
    Peer next = bench.connect("qmp");
    EXPECT_TRUE(next.next().contains("QMP"));
    char byte = 0;
    EXPECT_EQ(::read(reader.get(), &byte, 1), 0) << "its descriptor is closed";
    next.send("{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-b\",\"id\":1}");
    EXPECT_EQ(next.next(), done);
    EXPECT_TRUE(qemu.quiet()) << "QEMU is still at the former client's command";
    qemu.say({{"id", 1}, {"return", "for nobody"}});
    EXPECT_EQ(qemu.next()["execute"], "query-b");
    qemu.say({{"id", 1}, {"return", "for me"}});
    EXPECT_EQ(next.next()["return"], "for me");
}

TEST_F(Server, AnOwnAnswerForAClientThatLeftIsDropped) {
    Reply later;
    service.on_migrate = [&](Reply reply) { later = std::move(reply); };
    {
        Peer c = client();
        c.say(command("migrate", nullptr, {{"uri", "tcp:h:1"}}));
        ASSERT_TRUE(run_until(bench.io, [&] { return static_cast<bool>(later); }));
    }
    Peer next = client();
    later({});
    EXPECT_TRUE(next.quiet());
}

TEST_F(Server, ASecondClientWaitsForTheFirstToLeave) {
    auto first = std::make_unique<Peer>(client());
    Peer second = bench.connect("qmp");
    EXPECT_TRUE(second.quiet());
    first.reset();
    EXPECT_TRUE(second.next().contains("QMP"));
}

TEST_F(Server, WhatAHalfClosedClientAskedIsAnswered) {
    Peer c = bench.connect("qmp");
    c.send("{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-a\"}{\"execute\":\"query-migrate\"}");
    c.shut_writing();
    EXPECT_EQ(qemu.next()["execute"], "query-a");
    qemu.say({{"return", std::string(1 << 20, 'x')}});
    EXPECT_TRUE(c.next().contains("QMP"));
    EXPECT_EQ(c.next(), done);
    EXPECT_EQ(c.next()["return"].get<std::string>().size(), 1U << 20);
    EXPECT_EQ(c.next()["return"], status("fake"));
    EXPECT_TRUE(c.closed());
}

TEST_F(Server, QemusMigrationEventsAreSwallowedUnlessTheMigrationIsItsOwn) {
    Peer c = client();
    qemu.say({{"event", "MIGRATION"}, {"data", status("setup")}});
    qemu.say({{"event", "MIGRATION_PASS"}, {"data", {{"pass", 1}}}});
    qemu.say({{"event", "STOP"}});
    EXPECT_EQ(c.next(), json({{"event", "STOP"}}));
    service.native = true;
    qemu.say({{"event", "MIGRATION"}, {"data", status("active")}});
    EXPECT_EQ(c.next()["data"], status("active"));
}

TEST_F(Server, ANativeMigrationThatQemuRefusesHasNotBegun) {
    Peer c = client();
    c.say(command("migrate", 1, {{"uri", "fd:nobody"}}));
    qemu.say({{"id", qemu.next()["id"]}, {"error", {{"class", "GenericError"}, {"desc", "no such fd"}}}});
    EXPECT_EQ(c.next()["error"]["desc"], "no such fd");
    EXPECT_EQ(service.asked, (std::vector<std::string>{"native", "native refused"}));
    c.say(command("migrate", 2, {{"uri", "fd:somebody"}}));
    qemu.say({{"id", qemu.next()["id"]}, {"return", json::object()}});
    EXPECT_TRUE(c.next().contains("return"));
    EXPECT_TRUE(service.native);
}

TEST_F(Server, OwnEventsComeAfterWhatQemuHadSentBefore) {
    events_on();
    Peer c = client();
    EXPECT_TRUE(qemu.quiet());
    ASSERT_TRUE(qemu.try_send("{\"event\": \"STOP\"}\r\n")); // the loop does not run between this and the broadcast
    bench.sink.broadcast("MIGRATION", status("device"));
    EXPECT_EQ(c.next()["event"], "STOP");
    EXPECT_EQ(c.next()["data"], status("device"));
}

TEST_F(Server, OwnEventsNeedTheCapabilityAndCommandMode) {
    Peer c = bench.connect("qmp");
    EXPECT_TRUE(c.next().contains("QMP"));
    bench.sink.broadcast("MIGRATION", status("setup"));
    events_on();
    bench.sink.broadcast("MIGRATION", status("setup"));
    c.say(command("qmp_capabilities"));
    EXPECT_EQ(c.next(), done);
    EXPECT_TRUE(c.quiet());
}

TEST_F(Server, ASlowReaderBlocksNobodyAndIsPutOutInTheEnd) {
    Peer slow = client();
    auto [backend, other_end] = socket_pair();
    Peer other_qemu{bench.io, std::move(other_end)};
    bench.serve("other", std::move(backend));
    greet(other_qemu);
    Peer quick = bench.command_mode("other");
    events_on();
    const json big = {{"status", std::string(1 << 20, 'x')}};
    for (int i = 0; i < 70; ++i) {
        bench.sink.broadcast("MIGRATION", big);
        EXPECT_GT(quick.next_text().size(), 1U << 20);
    }
    EXPECT_TRUE(run_until(bench.io, [&] { return !bench.log.empty(); }));
    ASSERT_EQ(bench.log.size(), 1U);
    EXPECT_NE(bench.log[0].find("64 MiB unread"), std::string::npos) << bench.log[0];
    EXPECT_TRUE(slow.closed());
    (void)client(); // the next one is served
}

TEST_F(Server, WhenQemuEndsTheClientsConnectionEnds) {
    Peer c = client();
    bool told = false;
    bench.servers[0]->on_closed([&] { told = true; });
    qemu.say({{"event", "SHUTDOWN"}});
    qemu.close();
    EXPECT_EQ(c.next()["event"], "SHUTDOWN");
    EXPECT_TRUE(c.closed());
    EXPECT_TRUE(run_until(bench.io, [&] { return told; }));
}

TEST_F(Server, TheServerMayGoWhileACommandIsCarriedOut) {
    service.on_migrate = [&](const Reply& reply) {
        bench.servers.clear();
        reply({});
    };
    Peer c = client();
    c.say(command("migrate", nullptr, {{"uri", "tcp:h:1"}}));
    EXPECT_TRUE(c.closed());
}

TEST_F(Server, ManyCommandsAtOnceAreAnsweredInOrder) {
    Peer c = client();
    constexpr int count = 2000;
    std::string all;
    for (int i = 0; i < count; ++i) {
        all += command(i % 3 == 0 ? "query-migrate" : "query-x", i).dump();
    }
    std::size_t sent = 0;
    for (int i = 0; i < count; ++i) {
        if (sent < all.size()) {
            const std::string_view piece = std::string_view{all}.substr(sent, 4096);
            sent += c.try_send(piece) ? piece.size() : 0;
        }
        if (i % 3 != 0) {
            ASSERT_EQ(qemu.next()["id"], i);
            qemu.say({{"id", i}, {"return", i}});
        }
        ASSERT_EQ(c.next()["id"], i);
    }
}

TEST(ServerKinds, AConnectedSocketIsServedOnceAndPrettyIsPretty) {
    Bench bench;
    auto [backend, qemu_end] = socket_pair();
    auto [server_end, client_end] = socket_pair();
    Peer qemu{bench.io, std::move(qemu_end)};
    Peer client{bench.io, std::move(client_end)};
    Endpoint endpoint;
    endpoint.kind = Endpoint::Kind::connected;
    endpoint.in = std::move(server_end);
    endpoint.pretty = true;
    auto opened = QmpBackend::open(bench.io, std::move(backend));
    auto server = QmpServer::open(bench.io, std::move(endpoint), std::move(*opened), bench.commands, bench.sink, {});
    ASSERT_TRUE(server.has_value());
    greet(qemu);
    EXPECT_TRUE(client.next().contains("QMP"));
    client.say(command("qmp_capabilities"));
    EXPECT_EQ(client.next_text(), "{\n    \"return\": {\n    }\n}");
}

TEST(ServerKinds, APairOfPipes) {
    Bench bench;
    auto [backend, qemu_end] = socket_pair();
    Peer qemu{bench.io, std::move(qemu_end)};
    std::array<int, 2> in{};
    std::array<int, 2> out{};
    ASSERT_EQ(::pipe(in.data()), 0);
    ASSERT_EQ(::pipe(out.data()), 0);
    const Fd to{in[1]};
    const Fd from{out[0]};
    Endpoint endpoint;
    endpoint.kind = Endpoint::Kind::pair;
    endpoint.in = Fd{in[0]};
    endpoint.out = Fd{out[1]};
    auto opened = QmpBackend::open(bench.io, std::move(backend));
    auto server = QmpServer::open(bench.io, std::move(endpoint), std::move(*opened), bench.commands, bench.sink, {});
    ASSERT_TRUE(server.has_value());
    greet(qemu);
    const std::string ask = command("qmp_capabilities").dump();
    ASSERT_EQ(::write(to.get(), ask.data(), ask.size()), static_cast<ssize_t>(ask.size()));
    ASSERT_TRUE(qemu.quiet());
    std::array<char, 4096> buffer{};
    const ssize_t got = ::read(from.get(), buffer.data(), buffer.size());
    ASSERT_GT(got, 0);
    EXPECT_EQ(std::string(buffer.data(), static_cast<std::size_t>(got)), greeting_text + "\r\n{\"return\": {}}\r\n");
}

} // namespace
} // namespace pageferry::monitor::test
