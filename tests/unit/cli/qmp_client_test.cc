#include "monitor/client.h"

#include "fake_monitor.h"

#include <sys/eventfd.h>

namespace pageferry::cli {
namespace {

using monitor::parse_qmp_address;
using monitor::QmpClient;
using monitor::QmpEvent;
using nlohmann::json;
using std::chrono::milliseconds;

// The next event; without a name when none came.
QmpEvent next(QmpClient& client) {
    auto event = client.next_event(soon());
    EXPECT_TRUE(event);
    return event ? event->value_or(QmpEvent{}) : QmpEvent{};
}

TEST(QmpAddress, HasThreeForms) {
    EXPECT_EQ(parse_qmp_address("/run/vm.qmp")->path, "/run/vm.qmp");
    EXPECT_EQ(parse_qmp_address("unix:/run/vm.qmp")->path, "/run/vm.qmp");
    EXPECT_EQ(parse_qmp_address("tcp:host:4000")->host, "host");
    EXPECT_EQ(parse_qmp_address("tcp:host:4000")->port, "4000");
    EXPECT_EQ(parse_qmp_address("tcp:[::1]:4000")->host, "::1");
    EXPECT_EQ(parse_qmp_address("tcp::4000")->host, "localhost");
    for (const char* text : {"", "unix:", "tcp:", "tcp:host", "tcp:host:", "tcp:host:x", "tcp:host:0", "tcp:host:65536",
                             "tcp:::1:4000", "tcp:host:999999999999999999999"}) {
        const auto address = parse_qmp_address(text);
        ASSERT_FALSE(address) << text;
        EXPECT_EQ(address.error().code, ErrorCode::invalid_argument);
        EXPECT_FALSE(address.error().remedy.empty());
    }
}

TEST(QmpClient, GreetsAndExecutes) {
    const FakeMonitor fake{[](Peer& peer) {
        peer.greet();
        const json command = peer.hear();
        EXPECT_EQ(command["execute"], "echo");
        peer.answer(command, command["arguments"]);
    }};
    auto client = QmpClient::connect("unix:" + fake.address(), soon());
    ASSERT_TRUE(client) << client.error().to_string();
    EXPECT_EQ(client->greeting()["version"]["package"], "fake");
    EXPECT_EQ(client->execute("echo", {{"text", "grüße"}}, soon()).value(), (json{{"text", "grüße"}}));
}

TEST(QmpClient, GivesQemusOwnWordsOnARefusal) {
    const FakeMonitor fake{[](Peer& peer) {
        peer.greet();
        peer.refuse(peer.hear(), "Parameter 'uri' is missing");
        const json second = peer.hear();
        EXPECT_FALSE(second.contains("arguments")) << "no arguments, no member";
        peer.answer(second, 1);
    }};
    auto client = QmpClient::connect(fake.address(), soon());
    ASSERT_TRUE(client);
    const auto refused = client->execute("migrate", {{"x", 1}}, soon());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::refused);
    EXPECT_EQ(refused.error().operation, "migrate");
    EXPECT_EQ(refused.error().object, "GenericError");
    EXPECT_EQ(refused.error().reason, "Parameter 'uri' is missing");
    EXPECT_EQ(client->execute("next", nullptr, soon()).value(), 1) << "the connection goes on";
}

TEST(QmpClient, KeepsEventsInOrderWhileItWaits) {
    const FakeMonitor fake{[](Peer& peer) {
        peer.greet();
        const json command = peer.hear();
        peer.event("FIRST", {{"n", 1}}, 1000);
        peer.event("SECOND", nullptr);
        peer.answer(command, 0);
        peer.event("THIRD", nullptr);
    }};
    auto client = QmpClient::connect(fake.address(), soon());
    ASSERT_TRUE(client);
    ASSERT_TRUE(client->execute("x", nullptr, soon()));
    const auto first = next(*client);
    EXPECT_EQ(first.name, "FIRST");
    EXPECT_EQ(first.data["n"], 1);
    EXPECT_EQ(first.time, std::chrono::microseconds{1'000'000'005});
    EXPECT_EQ(next(*client).name, "SECOND");
    EXPECT_EQ(next(*client).name, "THIRD");
    const auto gone = client->next_event(soon());
    ASSERT_FALSE(gone);
    EXPECT_EQ(gone.error().code, ErrorCode::closed);
}

TEST(QmpClient, ReadsWhatComesInPieces) {
    const FakeMonitor fake{[](Peer& peer) {
        for (const char c : std::string{R"({"QMP": {}})"
                                        "\r\n\r\n"}) {
            peer.say_text(std::string(1, c));
        }
        peer.answer(peer.hear(), json::object());
        const json command = peer.hear();
        peer.say_text(R"({"event":"A"})"
                      "\r\n"
                      R"({"event":"B"})"
                      "\n");
        peer.answer(command, std::string(200'000, 'x'));
    }};
    auto client = QmpClient::connect(fake.address(), soon());
    ASSERT_TRUE(client) << client.error().to_string();
    EXPECT_EQ(client->execute("big", nullptr, soon()).value().get<std::string>().size(), 200'000U);
    EXPECT_EQ(next(*client).name, "A");
    EXPECT_EQ(next(*client).name, "B");
}

TEST(QmpClient, DropsTheReplyToACommandItGaveUp) {
    const FakeMonitor fake{[](Peer& peer) {
        peer.greet();
        const json slow = peer.hear();
        const json next = peer.hear(); // only now: the first one's deadline has passed
        peer.refuse(slow, "late");
        peer.answer(slow, "late");
        peer.answer(next, "mine");
    }};
    auto client = QmpClient::connect(fake.address(), soon());
    ASSERT_TRUE(client);
    const auto slow = client->execute("slow", nullptr, in(milliseconds{20}));
    ASSERT_FALSE(slow);
    EXPECT_EQ(slow.error().code, ErrorCode::timed_out);
    EXPECT_EQ(client->execute("next", nullptr, soon()).value(), "mine");
}

TEST(QmpClient, CanBeInterruptedAndGoesOn) {
    const Fd wake{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    const FakeMonitor fake{[&](Peer& peer) {
        peer.greet();
        const json waiting = peer.hear();
        ::eventfd_write(wake.get(), 1);
        const json next = peer.hear();
        peer.answer(waiting, "late");
        peer.answer(next, "mine");
    }};
    auto client = QmpClient::connect(fake.address(), soon());
    ASSERT_TRUE(client);
    client->interrupt_on(wake.get());
    const auto interrupted = client->execute("wait", nullptr, soon());
    ASSERT_FALSE(interrupted);
    EXPECT_EQ(interrupted.error().code, ErrorCode::cancelled);
    client->interrupt_on(-1);
    EXPECT_EQ(client->execute("next", nullptr, soon()).value(), "mine");
}

TEST(QmpClient, NamesWhatIsNoMonitor) {
    for (const char* greeting : {"HTTP/1.0 400 Bad Request\r\n", "[]\n", "{}\n", "{\"QMP\"\n"}) {
        const FakeMonitor fake{[&](Peer& peer) { peer.say_text(std::string{greeting}); }};
        const auto client = QmpClient::connect(fake.address(), soon());
        ASSERT_FALSE(client) << greeting;
        EXPECT_EQ(client.error().code, ErrorCode::protocol) << client.error().to_string();
    }
}

TEST(QmpClient, SaysWhyAMonitorDoesNotAnswer) {
    const FakeMonitor busy{[&](Peer& peer) { peer.hear(); }}; // accepts, and never greets
    const auto silent = QmpClient::connect(busy.address(), in(milliseconds{50}));
    ASSERT_FALSE(silent);
    EXPECT_EQ(silent.error().code, ErrorCode::timed_out);
    EXPECT_NE(silent.error().remedy.find("one client at a time"), std::string::npos);

    const auto absent = QmpClient::connect("/nonexistent/qmp", soon());
    ASSERT_FALSE(absent);
    EXPECT_EQ(absent.error().code, ErrorCode::not_found);
    EXPECT_FALSE(absent.error().remedy.empty());

    const FakeMonitor leaves{[](Peer& peer) { peer.greet(); }};
    auto client = QmpClient::connect(leaves.address(), soon());
    ASSERT_TRUE(client);
    const auto closed = client->execute("x", nullptr, soon());
    ASSERT_FALSE(closed);
    EXPECT_EQ(closed.error().code, ErrorCode::closed);
}

} // namespace
} // namespace pageferry::cli
