#include "engine/listeners.h"
#include "tests/unit/engine/failing_transport.h"
#include "transport/loader.h"

#include <gtest/gtest.h>

#include <sys/socket.h>

#include "base/fd.h"
#include "transport/uri.h"

#include <future>
#include <netinet/in.h>
#include <set>

namespace pageferry::engine {
namespace {

using std::chrono::milliseconds;

class ManyListeners : public ::testing::Test {
protected:
    void SetUp() override {
        auto loaded = transport::load("tcp");
        ASSERT_TRUE(loaded) << loaded.error().to_string();
        tcp_ = *loaded;
    }
    std::string add(const std::function<void(pf_transport&)>& change = [](pf_transport&) {}) {
        auto listener = testing::changed_tcp(*tcp_, change).listen("tcp:127.0.0.1:0", {});
        EXPECT_TRUE(listener) << listener.error().to_string();
        auto uri = listener->uri();
        listeners_.add(std::move(*listener));
        return uri;
    }
    // The next peer, waited for as long as a test may take.
    Result<std::optional<Listeners::Accepted>> next() {
        for (int i = 0; i < 600; ++i) {
            auto accepted = listeners_.accept(milliseconds{100}, strangers_);
            if (!accepted || *accepted) {
                return accepted;
            }
        }
        return std::optional<Listeners::Accepted>{};
    }
    std::future<Result<transport::Connection>> connect(const std::string& uri) {
        return std::async(std::launch::async, [this, uri]() -> Result<transport::Connection> {
            transport::Options options;
            options.session.fill(7);
            auto connection = tcp_->open(uri, options);
            if (connection) {
                PAGEFERRY_TRY(connection->connect(milliseconds{60'000}, {}));
            }
            return connection;
        });
    }

    std::optional<transport::Transport> tcp_;
    Listeners listeners_;
    std::vector<Error> strangers_;
};

TEST_F(ManyListeners, APeerMayComeByAnyOfThem) {
    const std::vector<std::string> uris{add(), add(), add()};
    for (const std::size_t number : {2U, 0U, 1U, 1U}) {
        auto peer = connect(uris[number]);
        auto accepted = next();
        ASSERT_TRUE(accepted && *accepted);
        EXPECT_EQ((*accepted)->listener, number);
        EXPECT_TRUE(peer.get());
    }
    EXPECT_TRUE(strangers_.empty());
}

TEST_F(ManyListeners, NobodyIsLostWhenSeveralComeAtOnce) {
    const std::vector<std::string> uris{add(), add()};
    auto first = connect(uris[0]);
    auto second = connect(uris[1]);
    std::set<std::size_t> came;
    std::vector<Listeners::Accepted> kept; // until both sides have seen the end of the handshake
    for (int i = 0; i < 2; ++i) {
        auto accepted = next();
        ASSERT_TRUE(accepted && *accepted);
        came.insert((*accepted)->listener);
        kept.push_back(std::move(**accepted));
    }
    EXPECT_EQ(came, (std::set<std::size_t>{0, 1}));
    EXPECT_TRUE(first.get());
    EXPECT_TRUE(second.get());
}

TEST_F(ManyListeners, AStrangerIsToldOfAndChangesNothing) {
    add();
    const auto uri = add();
    const auto parsed = transport::parse_uri(uri);
    ASSERT_TRUE(parsed);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(parsed->port);
    const Fd stranger{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    ASSERT_EQ(::connect(stranger.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    const std::string words(4096, 'x');
    ASSERT_EQ(::send(stranger.get(), words.data(), words.size(), MSG_NOSIGNAL), static_cast<ssize_t>(words.size()));
    for (int i = 0; i < 600 && strangers_.empty(); ++i) {
        const auto nobody = listeners_.accept(milliseconds{100}, strangers_);
        ASSERT_TRUE(nobody);
        EXPECT_FALSE(*nobody);
    }
    EXPECT_FALSE(strangers_.empty());
    auto peer = connect(uri);
    const auto accepted = next();
    EXPECT_TRUE(accepted && *accepted);
    EXPECT_TRUE(peer.get());
}

TEST_F(ManyListeners, OneThatFailsLeavesTheOthers) {
    add(testing::fails_to_accept<PF_IO>);
    const auto uri = add();
    auto peer = connect(uri);
    const auto accepted = next();
    ASSERT_TRUE(accepted && *accepted);
    EXPECT_EQ((*accepted)->listener, 1U);
    EXPECT_TRUE(peer.get());
    for (int i = 0; i < 600 && strangers_.empty(); ++i) {
        ASSERT_TRUE(listeners_.accept(milliseconds{100}, strangers_));
    }
    ASSERT_EQ(strangers_.size(), 1U);
    EXPECT_EQ(strangers_[0].reason, "the device is gone");
}

TEST_F(ManyListeners, WithoutAnyLeftItIsAnError) {
    add(testing::fails_to_accept<PF_IO>);
    add(testing::fails_to_accept<PF_IO>);
    const auto none = next();
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().reason, "the device is gone");
    EXPECT_FALSE(listeners_.accept(milliseconds{0}, strangers_)) << "and stays one";
}

TEST_F(ManyListeners, CancelEndsTheWait) {
    add();
    add();
    std::promise<void> waiting;
    auto waited = std::async(std::launch::async, [&] {
        EXPECT_TRUE(listeners_.accept(milliseconds{0}, strangers_));
        waiting.set_value();
        return listeners_.accept(milliseconds{3'600'000}, strangers_);
    });
    waiting.get_future().wait();
    listeners_.cancel();
    const auto cancelled = waited.get();
    ASSERT_FALSE(cancelled);
    EXPECT_EQ(cancelled.error().code, ErrorCode::cancelled);
    EXPECT_FALSE(listeners_.accept(milliseconds{0}, strangers_));
}

// Nobody listens there any more: who connects is refused, and the address can be taken again.
TEST_F(ManyListeners, ARemovedOneIsClosedAndTheOthersKeepTheirNumbers) {
    const std::vector<std::string> uris{add(), add(), add()};
    for (const bool waited : {false, true}) { // before anybody has waited in accept(), and after
        const std::size_t removed = waited ? 2 : 0;
        listeners_.remove(removed);
        EXPECT_EQ(listeners_.size(), waited ? 1U : 2U);
        EXPECT_FALSE(connect(uris[removed]).get());
        EXPECT_TRUE(tcp_->listen(uris[removed], {}));
        auto peer = connect(uris[1]);
        const auto accepted = next();
        ASSERT_TRUE(accepted && *accepted);
        EXPECT_EQ((*accepted)->listener, 1U);
        EXPECT_TRUE(peer.get());
    }
    listeners_.remove(0); // again
    listeners_.remove(17);
    EXPECT_EQ(listeners_.size(), 1U);
    const auto further = add();
    EXPECT_EQ(listeners_.size(), 2U);
    auto peer = connect(further);
    const auto accepted = next();
    ASSERT_TRUE(accepted && *accepted);
    EXPECT_EQ((*accepted)->listener, 3U) << "a number is not given twice";
    EXPECT_TRUE(peer.get());
}

TEST_F(ManyListeners, OneIsRemovedWhileSomebodyWaits) {
    add();
    const auto uri = add();
    auto waiting = std::async(std::launch::async, [this] { return next(); });
    listeners_.remove(0);
    auto peer = connect(uri);
    const auto accepted = waiting.get();
    ASSERT_TRUE(accepted && *accepted);
    EXPECT_EQ((*accepted)->listener, 1U);
    EXPECT_TRUE(peer.get());
    EXPECT_TRUE(strangers_.empty()) << "a removed one is no failure";
}

TEST_F(ManyListeners, WithAllOfThemRemovedItIsAnError) {
    add();
    ASSERT_TRUE(listeners_.accept(milliseconds{0}, strangers_));
    add();
    listeners_.remove(0);
    listeners_.remove(1);
    EXPECT_EQ(listeners_.size(), 0U);
    EXPECT_FALSE(listeners_.accept(milliseconds{0}, strangers_));
    EXPECT_TRUE(strangers_.empty());
}

TEST_F(ManyListeners, NeverAskedTheyEndAtOnce) {
    add();
    add();
    EXPECT_EQ(listeners_.size(), 2U);
}

} // namespace
} // namespace pageferry::engine
