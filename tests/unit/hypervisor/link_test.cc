// The link between the monitor process and its mover, over real sockets.
#include "hypervisor/link/link.h"

#include "hypervisor/link/messages.h"

#include <gtest/gtest.h>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <string>
#include <thread>

namespace pageferry::hypervisor {
namespace {

using nlohmann::json;

constexpr std::chrono::milliseconds now{0};
constexpr std::chrono::seconds deadline{60};
constexpr std::size_t largest_message = 128UL * 1024;
constexpr std::size_t most_fds = 253; // SCM_MAX_FD

std::size_t open_descriptors() {
    const std::filesystem::directory_iterator all{"/proc/self/fd"};
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

bool close_on_exec(int fd) {
    return (::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0;
}

ino_t inode_of(int fd) {
    struct stat status{};
    return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
}

Fd make_file() {
    return Fd{::memfd_create("link-test", MFD_CLOEXEC)};
}

class LinkTest : public testing::Test {
protected:
    void SetUp() override {
        auto pair = Link::make_pair();
        ASSERT_TRUE(pair) << pair.error().to_string();
        near.emplace(std::move(pair->first));
        far.emplace(std::move(pair->second));
    }

    void send_raw(std::string_view packet) const {
        ASSERT_EQ(::send(near->fd(), packet.data(), packet.size(), MSG_NOSIGNAL), static_cast<ssize_t>(packet.size()));
    }
    // The other side gets this error for the packet, and the message after it as if nothing had been.
    void expect_protocol(const std::string& what, const char* reason) const {
        const auto received = far->receive(deadline);
        ASSERT_FALSE(received) << what;
        EXPECT_EQ(received.error().code, ErrorCode::protocol) << what;
        EXPECT_NE(received.error().reason.find(reason), std::string::npos) << received.error().to_string();
        ASSERT_TRUE(near->send({{"type", "next"}}));
        const auto next = far->receive(deadline);
        ASSERT_TRUE(next && *next) << what;
        EXPECT_EQ((*next)->text("type"), "next") << what;
    }

    std::optional<Link> near;
    std::optional<Link> far;
};

// The text of a message is `size` bytes long.
json message_of(std::size_t size) {
    const std::size_t frame = json{{"x", ""}}.dump().size();
    return {{"x", std::string(size - frame, 'a')}};
}

TEST_F(LinkTest, BothEndsAreCloseOnExecAndClosedWithTheirOwner) {
    EXPECT_TRUE(close_on_exec(near->fd()));
    EXPECT_TRUE(close_on_exec(far->fd()));
    const std::size_t with_both = open_descriptors();
    near.reset();
    far.reset();
    EXPECT_EQ(open_descriptors(), with_both - 2);
}

TEST_F(LinkTest, MessagesArriveWholeAndInOrderBothWays) {
    const json nested = {{"type", "request"}, {"id", 7}, {"list", {1, -2, 3.5, nullptr, "x"}}, {"inner", {{"flag", true}}}};
    ASSERT_TRUE(near->send({{"type", "first"}}));
    ASSERT_TRUE(near->send(nested));
    ASSERT_TRUE(far->send({{"type", "back"}}));
    const auto first = far->receive(deadline);
    const auto second = far->receive(deadline);
    const auto back = near->receive(deadline);
    ASSERT_TRUE(first && *first && second && *second && back && *back);
    EXPECT_EQ((*first)->text("type"), "first");
    EXPECT_EQ((*second)->body, nested);
    EXPECT_EQ((*back)->text("type"), "back");
    EXPECT_TRUE((*second)->fds.empty());
}

TEST_F(LinkTest, DescriptorsArriveInOrderAsDescriptorsOfTheirOwn) {
    const std::size_t before = open_descriptors();
    {
        const Fd a = make_file();
        const Fd b = make_file();
        const Fd c = make_file();
        for (const std::vector<int>& sent : {std::vector{a.get()}, {c.get(), a.get(), b.get()}, {b.get(), b.get()}}) {
            const std::size_t without = open_descriptors();
            ASSERT_TRUE(near->send({{"type", "with"}}, sent));
            const auto received = far->receive(deadline);
            ASSERT_TRUE(received && *received);
            const auto& fds = (*received)->fds;
            ASSERT_EQ(fds.size(), sent.size());
            for (std::size_t i = 0; i < sent.size(); ++i) {
                EXPECT_EQ(inode_of(fds[i].get()), inode_of(sent[i]));
                EXPECT_EQ(std::ranges::count(sent, fds[i].get()), 0);
                EXPECT_TRUE(close_on_exec(fds[i].get()));
            }
            EXPECT_EQ(open_descriptors(), without + sent.size());
        }
        EXPECT_NE(inode_of(a.get()), 0U); // those sent stayed the sender's
    }
    EXPECT_EQ(open_descriptors(), before);
}

TEST_F(LinkTest, AsManyDescriptorsAsTheKernelTakesAndNotOneMore) {
    const Fd file = make_file();
    const std::size_t before = open_descriptors();
    ASSERT_TRUE(near->send(json::object(), std::vector<int>(most_fds, file.get())));
    {
        const auto received = far->receive(deadline);
        ASSERT_TRUE(received && *received);
        EXPECT_EQ((*received)->fds.size(), most_fds);
    }
    EXPECT_EQ(open_descriptors(), before);
    const auto refused = near->send(json::object(), std::vector<int>(most_fds + 1, file.get()));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
    EXPECT_FALSE(far->receive(now).value());
}

TEST_F(LinkTest, ADescriptorThatIsNoneIsAnErrorAndNothingIsSent) {
    const Fd file = make_file();
    const auto sent = near->send(json::object(), std::array{file.get(), -1});
    ASSERT_FALSE(sent);
    EXPECT_EQ(sent.error().native, EBADF);
    EXPECT_FALSE(far->receive(now).value());
}

TEST_F(LinkTest, NothingInTimeIsNoError) {
    for (const auto timeout : {now, std::chrono::milliseconds{20}}) {
        const auto received = far->receive(timeout);
        ASSERT_TRUE(received) << received.error().to_string();
        EXPECT_FALSE(*received);
    }
}

TEST_F(LinkTest, AMessageWakesAWaitAndSoDoesTheEnd) {
    std::jthread sender{[this] { EXPECT_TRUE(near->send({{"type", "late"}})); }};
    const auto received = far->receive(deadline);
    ASSERT_TRUE(received && *received);
    EXPECT_EQ((*received)->text("type"), "late");
    sender.join();
    sender = std::jthread{[this] { near.reset(); }};
    const auto gone = far->receive(deadline);
    ASSERT_FALSE(gone);
    EXPECT_EQ(gone.error().code, ErrorCode::closed);
}

TEST_F(LinkTest, AnyThreadSends) {
    constexpr std::uint64_t each = 20;
    std::array<std::uint64_t, 2> next{};
    {
        std::vector<std::jthread> senders;
        senders.reserve(next.size());
        for (std::uint64_t thread = 0; thread < next.size(); ++thread) {
            senders.emplace_back([this, thread] {
                for (std::uint64_t i = 0; i < each; ++i) {
                    EXPECT_TRUE(near->send({{"thread", thread}, {"number", i}}));
                }
            });
        }
        for (std::size_t i = 0; i < next.size() * each; ++i) {
            const auto received = far->receive(deadline);
            ASSERT_TRUE(received && *received);
            const std::uint64_t thread = (*received)->number("thread");
            ASSERT_LT(thread, next.size());
            EXPECT_EQ((*received)->number("number"), next[thread]++); // each thread's own are in order
        }
    }
    EXPECT_FALSE(far->receive(now).value());
}

TEST_F(LinkTest, WhatWasSaidBeforeTheEndArrivesThenClosed) {
    const Fd file = make_file();
    ASSERT_TRUE(near->send({{"type", "last words"}}, std::array{file.get()}));
    near.reset();
    const auto last = far->receive(deadline);
    ASSERT_TRUE(last && *last);
    EXPECT_EQ((*last)->text("type"), "last words");
    EXPECT_EQ((*last)->fds.size(), 1U);
    for (int i = 0; i < 2; ++i) {
        const auto gone = far->receive(now);
        ASSERT_FALSE(gone);
        EXPECT_EQ(gone.error().code, ErrorCode::closed);
    }
    const auto sent = far->send(json::object()); // and no SIGPIPE
    ASSERT_FALSE(sent);
    EXPECT_EQ(sent.error().code, ErrorCode::closed);
}

TEST_F(LinkTest, ThePeerThatLeftMessagesUnreadIsClosedToo) {
    const std::size_t before = open_descriptors();
    {
        const Fd file = make_file();
        ASSERT_TRUE(far->send(json::object(), std::array{file.get()}));
    }
    near.reset();
    const auto gone = far->receive(deadline);
    ASSERT_FALSE(gone);
    EXPECT_EQ(gone.error().code, ErrorCode::closed);
    EXPECT_EQ(open_descriptors(), before - 1);
}

TEST_F(LinkTest, APeerThatDoesNotReadIsAnErrorAndNoWait) {
    constexpr std::uint64_t limit = 1'000'000; // no socket buffer holds so many
    std::uint64_t sent = 0;
    Result<void> result;
    while (sent < limit && (result = near->send({{"number", sent}}))) {
        ++sent;
    }
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::resources);
    EXPECT_NE(result.error().reason.find("does not read"), std::string::npos);
    for (std::uint64_t i = 0; i < sent; ++i) {
        const auto received = far->receive(now);
        ASSERT_TRUE(received && *received);
        ASSERT_EQ((*received)->number("number"), i);
    }
    EXPECT_FALSE(far->receive(now).value()); // the refused one is not there
    EXPECT_TRUE(near->send(json::object())); // it reads again
}

TEST_F(LinkTest, TheLargestMessageArrivesAndALargerOneIsCutOff) {
    ASSERT_TRUE(near->send(message_of(largest_message)));
    const auto received = far->receive(deadline);
    ASSERT_TRUE(received && *received) << received.error().to_string();
    EXPECT_EQ((*received)->body, message_of(largest_message));
    ASSERT_TRUE(near->send(message_of(largest_message + 1)));
    expect_protocol("one byte more", "cut off");
}

TEST_F(LinkTest, WhatTheSocketCannotHoldIsTheSendersError) {
    const int small = 16 * 1024;
    ASSERT_EQ(::setsockopt(near->fd(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
    const auto sent = near->send(message_of(largest_message));
    ASSERT_FALSE(sent);
    EXPECT_EQ(sent.error().native, EMSGSIZE);
    EXPECT_FALSE(far->receive(now).value());
    EXPECT_TRUE(near->send(json::object()));
}

TEST_F(LinkTest, WhatIsNoJsonObjectIsAProtocolError) {
    const std::vector<std::string> packets{
        "garbage",
        std::string(1, '\0'),
        "\xff\xfe\x80",
        " ",
        "{",
        R"({"type":"sta)",
        R"({"type":"start"}{})",
        R"({"a":1}x)",
        "{\"a\":\"\xff\"}",
        "null",
        "true",
        "17",
        "\"start\"",
        "[]",
        R"([{"type":"start"}])",
        std::string(largest_message, '['),
    };
    for (const std::string& packet : packets) {
        send_raw(packet);
        expect_protocol(packet.substr(0, 40), "no JSON object");
    }
}

TEST_F(LinkTest, AnObjectOfManyLevelsIsOnlyAnObject) {
    std::string packet;
    constexpr int levels = 20'000;
    for (int i = 0; i < levels; ++i) {
        packet += R"({"a":)";
    }
    packet += "1" + std::string(levels, '}');
    ASSERT_LE(packet.size(), largest_message);
    send_raw(packet);
    const auto received = far->receive(deadline);
    ASSERT_TRUE(received && *received);
    EXPECT_TRUE((*received)->body.contains("a"));
}

TEST_F(LinkTest, TextThatIsNoUtf8IsSentWithReplacements) {
    ASSERT_TRUE(near->send({{"path", "/tmp/\xff!"}}));
    const auto received = far->receive(deadline);
    ASSERT_TRUE(received && *received);
    EXPECT_EQ((*received)->text("path"), "/tmp/\xef\xbf\xbd!");
}

TEST_F(LinkTest, DescriptorsOfAMessageThatIsRefusedAreClosed) {
    const Fd file = make_file();
    const std::size_t before = open_descriptors();
    ASSERT_TRUE(near->send(message_of(largest_message + 1), std::vector<int>(3, file.get())));
    expect_protocol("too long", "cut off");
    ASSERT_TRUE(near->send(json::array(), std::vector<int>(3, file.get())));
    expect_protocol("no object", "no JSON object");
    EXPECT_EQ(open_descriptors(), before);
}

TEST_F(LinkTest, AMessageWhoseDescriptorsDoNotFitIsCutOffAndLeavesNone) {
    const Fd file = make_file();
    ASSERT_TRUE(near->send(json::object(), std::vector<int>(8, file.get())));
    const std::size_t before = open_descriptors();
    // Two numbers are left, and then none: the kernel gives those two, and says that others are missing.
    std::array<Fd, 2> last{file.duplicate(), file.duplicate()};
    rlimit limit{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
    const rlimit tight{.rlim_cur = static_cast<rlim_t>(std::max(last[0].get(), last[1].get())) + 1, .rlim_max = limit.rlim_max};
    last = {};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &tight), 0);
    const auto received = far->receive(deadline);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
    ASSERT_FALSE(received);
    EXPECT_EQ(received.error().code, ErrorCode::protocol);
    EXPECT_EQ(open_descriptors(), before);
}

TEST(LinkOfTwo, AnEmptyPacketIsNotTheEndOfThePeer) {
    auto pair = Link::make_pair();
    ASSERT_TRUE(pair);
    ASSERT_EQ(::send(pair->first.fd(), "", 0, 0), 0);
    ASSERT_TRUE(pair->first.send({{"type", "next"}}));
    const auto received = pair->second.receive(deadline);
    ASSERT_FALSE(received);
    EXPECT_EQ(received.error().code, ErrorCode::protocol) << received.error().to_string();
}

} // namespace
} // namespace pageferry::hypervisor
