// Callers that a listener must turn away, and listeners that a caller must not trust.
#include "pair.h"

#include "tcp_fallback/handshake.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <memory>
#include <string>
#include <thread>

namespace pageferry::tcp::test {
namespace {

// What the listener says of the latest stranger: accept() for as long as it takes to see one.
Problem next_rejected(const Listener& listener) {
    for (;;) {
        Problem rejected;
        pf_connection* connection = nullptr;
        const int status = api().accept(listener.get, 20, &connection, &rejected, nullptr);
        EXPECT_EQ(status, PF_AGAIN);
        if (status != PF_AGAIN || rejected.status != PF_OK) {
            return rejected;
        }
    }
}

Preamble control_preamble(std::uint8_t connection) {
    Preamble preamble{
        .version = 1, .kind = LaneKind::control, .index = 0, .lanes = 1, .connection = {}, .session = {}, .epoch = 0};
    preamble.connection.fill(connection);
    return preamble;
}

void introduce(const RawCaller& caller, const Preamble& preamble) {
    std::array<std::byte, preamble_bytes> bytes{};
    encode_preamble(preamble, bytes);
    caller.say(bytes);
}

TEST(Strangers, AreToldApartAndGone) {
    const Listener listener;
    const struct {
        std::string says;
        std::string shown;
    } strangers[] = {{std::string{"QEVM\0\0\0\3", 8}, "plain QEMU"},
                     {"\x11\x22\x33\x44 and more", "multifd"},
                     {"GET / HTTP/1.1\r\n\r\n", "does not speak"},
                     {"\x16\x03\x01 hello", "TLS"}};
    for (const auto& stranger : strangers) {
        const RawCaller caller{listener.port()};
        caller.say(stranger.says);
        const Problem rejected = next_rejected(listener);
        EXPECT_EQ(rejected.status, PF_PROTOCOL);
        EXPECT_NE(std::string_view{rejected.reason}.find(stranger.shown), std::string_view::npos) << rejected.text();
        EXPECT_NE(std::string_view{rejected.peer}.find("127.0.0.1"), std::string_view::npos);
        EXPECT_LE(caller.hear(1000).size(), greeting_bytes) << "a greeting, and then the end";
    }
}

TEST(Strangers, SilenceEndsAfterTheHandshakeTime) {
    pf_options given = options();
    given.handshake_ms = 50;
    const Listener listener{"tcp:127.0.0.1:0", given};
    const RawCaller caller{listener.port()};
    const Problem rejected = next_rejected(listener);
    EXPECT_EQ(rejected.status, PF_TIMED_OUT);
    EXPECT_NE(std::string_view{rejected.reason}.find("said nothing for 50 ms"), std::string_view::npos) << rejected.text();
    EXPECT_EQ(caller.hear(1000).size(), greeting_bytes);
}

TEST(Strangers, OneWhoLeavesIsShown) {
    const Listener listener;
    {
        const RawCaller caller{listener.port()};
    }
    EXPECT_EQ(next_rejected(listener).status, PF_CLOSED);
    {
        const RawCaller caller{listener.port()};
        introduce(caller, control_preamble(1));
        pf_connection* connection = nullptr;
        EXPECT_EQ(api().accept(listener.get, 0, &connection, nullptr, nullptr), PF_AGAIN) << "one lane of three";
        EXPECT_EQ(caller.hear(greeting_bytes).size(), greeting_bytes);
    }
    EXPECT_EQ(next_rejected(listener).status, PF_REFUSED) << "in the middle of a group";
}

TEST(Strangers, DoNotHoldUpAPeer) {
    const Listener listener;
    std::vector<std::unique_ptr<RawCaller>> silent;
    for (int i = 0; i < 20; ++i) {
        silent.push_back(std::make_unique<RawCaller>(listener.port()));
    }
    silent.front()->say("PGFLA"); // the beginning of a preamble, and no more
    introduce(*silent.back(), control_preamble(3));
    const pf_options given = options(8);
    End caller;
    End callee;
    ASSERT_EQ(api().open(listener.uri().c_str(), &given, &caller.get, nullptr), PF_OK);
    std::thread accepting{[&] { EXPECT_EQ(api().accept(listener.get, generous_ms, &callee.get, nullptr, nullptr), PF_OK); }};
    Problem problem;
    EXPECT_EQ(api().connect(caller.get, generous_ms, nullptr, nullptr, &problem), PF_OK) << problem.text();
    accepting.join();
    EXPECT_EQ(caller.send("hello"), PF_OK);
    EXPECT_EQ(callee.receive(), "hello");
}

// connect() with these options while the listener accepts; the caller's problem, and what the listener showed.
void expect_refused(const pf_options& ours, const pf_options& theirs, int status, std::string_view words) {
    const Listener listener{"tcp:127.0.0.1:0", theirs};
    End caller;
    ASSERT_EQ(api().open(listener.uri().c_str(), &ours, &caller.get, nullptr), PF_OK);
    Problem rejected;
    std::thread accepting{[&] { rejected = next_rejected(listener); }};
    Problem problem;
    EXPECT_EQ(api().connect(caller.get, generous_ms, nullptr, nullptr, &problem), status) << problem.text();
    accepting.join();
    EXPECT_EQ(problem.phase, PF_PHASE_HANDSHAKE);
    EXPECT_NE(std::string_view{problem.reason}.find(words), std::string_view::npos) << problem.text();
    EXPECT_NE(std::string_view{rejected.reason}.find(words), std::string_view::npos) << rejected.text();
}

TEST(Strangers, AnotherSessionIsRefusedWithWords) {
    pf_options ours = options();
    pf_options theirs = options();
    ours.session[0] = 1;
    theirs.session[0] = 2;
    expect_refused(ours, theirs, PF_REFUSED, "another migration session");
}

TEST(Strangers, AnOlderEpochIsRefusedWithWords) {
    pf_options ours = options();
    pf_options theirs = options();
    ours.epoch = 3;
    theirs.epoch = 4;
    expect_refused(ours, theirs, PF_REFUSED, "epoch 3 is over");
}

// A listener that speaks by hand, on one connection.
class RawListener {
public:
    RawListener() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        EXPECT_EQ(::listen(socket_.get(), 8), 0); // on any address and port
    }
    [[nodiscard]] std::string uri() const;
    [[nodiscard]] Fd accept() const { return Fd{::accept(socket_.get(), nullptr, nullptr)}; }

private:
    Fd socket_;
};

std::string RawListener::uri() const {
    struct {
        std::uint16_t family;
        std::uint8_t port[2];
        std::uint8_t rest[28];
    } address{};
    socklen_t length = sizeof address;
    EXPECT_EQ(::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
    return "tcp:127.0.0.1:" + std::to_string(address.port[0] * 256 + address.port[1]);
}

TEST(PlainQemu, ASilentListenerIsSentNothingAndNamed) {
    const RawListener qemu;
    End caller;
    const pf_options given = options();
    ASSERT_EQ(api().open(qemu.uri().c_str(), &given, &caller.get, nullptr), PF_OK);
    Problem problem;
    EXPECT_EQ(api().connect(caller.get, 100, nullptr, nullptr, &problem), PF_TIMED_OUT);
    EXPECT_EQ(problem.phase, PF_PHASE_HANDSHAKE);
    EXPECT_NE(std::string_view{problem.reason}.find("is it plain QEMU"), std::string_view::npos) << problem.text();
    EXPECT_NE(std::string_view{problem.remedy}.find("pageferry qemu"), std::string_view::npos) << problem.text();
    const Fd accepted = qemu.accept();
    caller.close();
    char byte = 0;
    EXPECT_EQ(::recv(accepted.get(), &byte, 1, 0), 0) << "nothing but the end";
}

TEST(Versions, AListenerOfOtherVersionsIsNotSpokenTo) {
    const RawListener future;
    End caller;
    const pf_options given = options();
    ASSERT_EQ(api().open(future.uri().c_str(), &given, &caller.get, nullptr), PF_OK);
    std::thread greeting{[&] {
        const Fd accepted = future.accept();
        std::array<std::byte, greeting_bytes> bytes{};
        encode_greeting({.lowest = 7, .highest = 8}, bytes);
        EXPECT_EQ(::send(accepted.get(), bytes.data(), bytes.size(), 0), ssize_t{greeting_bytes});
        char byte = 0;
        EXPECT_EQ(::recv(accepted.get(), &byte, 1, 0), 0);
    }};
    Problem problem;
    EXPECT_EQ(api().connect(caller.get, generous_ms, nullptr, nullptr, &problem), PF_VERSION) << problem.text();
    caller.close();
    greeting.join();
}

TEST(Versions, ACallerOfAnotherVersionIsToldWhy) {
    const Listener listener;
    const RawCaller caller{listener.port()};
    Preamble preamble = control_preamble(1);
    preamble.version = 9;
    introduce(caller, preamble);
    EXPECT_EQ(next_rejected(listener).status, PF_VERSION);
    (void)caller.hear(greeting_bytes);
    const auto verdict = decode_verdict(caller.hear(verdict_bytes));
    ASSERT_TRUE(verdict);
    EXPECT_EQ(verdict->status, PF_VERSION);
    EXPECT_NE(printable(caller.hear(verdict->text_length)).find("version 9"), std::string::npos);
}

} // namespace
} // namespace pageferry::tcp::test
