#include "monitor/qmp_backend.h"

#include "bench.h"

#include <gtest/gtest.h>

namespace pageferry::monitor::test {
namespace {

struct Backend : testing::Test {
    boost::asio::io_context io;
    std::pair<Fd, Fd> pair = socket_pair();
    std::unique_ptr<QmpBackend> backend = std::move(*QmpBackend::open(io, std::move(pair.first)));
    Peer qemu{io, std::move(pair.second)};
    std::vector<std::string> seen;
    bool ready = false;
    bool closed = false;

    void start() {
        backend->start({.ready = [this] { ready = true; },
                        .event = [this](const std::string& name, const json&,
                                        std::string_view raw) { seen.push_back(name + " " + std::string{raw}); },
                        .reply = [this](const QmpBackend::Answer& answer) { seen.push_back("reply " + answer.raw); },
                        .closed = [this] { closed = true; }});
    }
};

TEST_F(Backend, NegotiatesKeepsTheGreetingAndHoldsCommandsBackUntilThen) {
    start();
    json got;
    backend->execute("query-status", {}, [&](const Result<json>& result) { got = result.value_or("failed"); });
    greet(qemu);
    const json asked = qemu.next();
    EXPECT_EQ(asked["execute"], "query-status");
    EXPECT_FALSE(asked.contains("arguments"));
    EXPECT_TRUE(ready);
    EXPECT_TRUE(backend->oob());
    EXPECT_EQ(backend->greeting(), greeting_text);
    qemu.say({{"id", asked["id"]}, {"return", {{"running", true}}}});
    ASSERT_TRUE(run_until(io, [&] { return !got.is_null(); }));
    EXPECT_EQ(got, json({{"running", true}}));
}

TEST_F(Backend, OwnAnswersForeignAnswersAndEventsEachGoTheirWay) {
    start();
    greet(qemu);
    ASSERT_TRUE(run_until(io, [&] { return ready; }));
    std::string refusal;
    backend->execute("stop", json::object(), [&](const Result<json>& result) { refusal = result ? "" : result.error().reason; });
    backend->send_raw("{\"execute\":  \"x\"}\r\n", {});
    const json mine = qemu.next();
    EXPECT_EQ(qemu.next_text(), "{\"execute\":  \"x\"}");
    qemu.send("{\"event\":  \"STOP\"}\r\n{\"return\":  {}}\r\n");
    qemu.say({{"id", mine["id"]}, {"error", {{"class", "GenericError"}, {"desc", "no"}}}});
    ASSERT_TRUE(run_until(io, [&] { return !refusal.empty(); }));
    EXPECT_EQ(refusal, "no");
    EXPECT_EQ(seen, (std::vector<std::string>{"STOP {\"event\":  \"STOP\"}", "reply {\"return\":  {}}"}));
}

TEST_F(Backend, EveryOpenCommandIsAnsweredWhenQemuEnds) {
    start();
    greet(qemu);
    int answers = 0;
    const auto count = [&](const Result<json>& result) {
        EXPECT_FALSE(closed);
        EXPECT_EQ(result.error().code, ErrorCode::closed);
        ++answers;
    };
    backend->execute("a", {}, count);
    backend->execute("b", {}, count);
    ASSERT_TRUE(run_until(io, [&] { return ready; }));
    qemu.close();
    ASSERT_TRUE(run_until(io, [&] { return closed; }));
    EXPECT_EQ(answers, 2);
    bool late = false;
    backend->execute("c", {}, [&](const Result<json>& result) { late = !result.has_value(); });
    EXPECT_FALSE(late) << "never inside execute()";
    ASSERT_TRUE(run_until(io, [&] { return late; }));
}

TEST_F(Backend, APeerThatSpeaksNoQmpIsClosed) {
    start();
    qemu.send("SSH-2.0-OpenSSH\r\n@@@\r\n");
    ASSERT_TRUE(run_until(io, [&] { return closed; }));
}

TEST_F(Backend, DrainReportsWhatIsThereNow) {
    start();
    greet(qemu);
    ASSERT_TRUE(run_until(io, [&] { return ready; }));
    ASSERT_TRUE(qemu.try_send("{\"event\": \"RESUME\"}\r\n"));
    backend->drain();
    EXPECT_EQ(seen.size(), 1U);
    backend->drain();
    EXPECT_EQ(seen.size(), 1U);
}

TEST_F(Backend, DestroyingItCallsNothingBack) {
    start();
    greet(qemu);
    backend->execute("a", {}, [](const Result<json>&) { FAIL(); });
    backend.reset();
    EXPECT_TRUE(qemu.closed());
}

} // namespace
} // namespace pageferry::monitor::test
