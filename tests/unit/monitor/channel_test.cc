#include "monitor/channel.h"

#include "bench.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

namespace pageferry::monitor::test {
namespace {

struct Seen {
    std::string bytes;
    std::vector<Fd> fds;
    int ends = 0;
    bool gone = false;

    Channel::Handlers handlers() {
        return {.received =
                    [this](std::string_view more, std::vector<Fd> with) {
                        bytes += more;
                        for (Fd& fd : with) {
                            fds.push_back(std::move(fd));
                        }
                    },
                .ended =
                    [this](bool is_gone) {
                        ++ends;
                        gone = is_gone;
                    }};
    }
};

TEST(Channel, CarriesDescriptorsCloseOnExec) {
    boost::asio::io_context io;
    auto [a, b] = socket_pair();
    auto left = Channel::open(io, std::move(a));
    auto right = Channel::open(io, std::move(b));
    ASSERT_TRUE(left && right);
    Seen seen;
    (*right)->start(seen.handlers());
    (*left)->start({});
    std::array<int, 2> pipe{};
    ASSERT_EQ(::pipe(pipe.data()), 0);
    std::vector<Fd> fds;
    fds.emplace_back(pipe[1]);
    (*left)->send("hello", std::move(fds));
    ASSERT_TRUE(run_until(io, [&] { return seen.bytes == "hello"; }));
    ASSERT_EQ(seen.fds.size(), 1U);
    EXPECT_NE(::fcntl(seen.fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
    seen.fds.clear();
    const Fd reader{pipe[0]};
    char byte = 0;
    EXPECT_EQ(::read(reader.get(), &byte, 1), 0) << "no copy is left behind";
}

TEST(Channel, QueuesWhatThePeerDoesNotTakeAndNeverBlocks) {
    boost::asio::io_context io;
    auto [a, b] = socket_pair();
    auto left = Channel::open(io, std::move(a));
    ASSERT_TRUE(left);
    (*left)->start({});
    const std::string much(std::size_t{8} << 20, 'x');
    (*left)->send(much);
    EXPECT_GT((*left)->queued_bytes(), much.size() / 2);
    auto right = Channel::open(io, std::move(b));
    Seen seen;
    (*right)->start(seen.handlers());
    ASSERT_TRUE(run_until(io, [&] { return seen.bytes.size() == much.size(); }));
    EXPECT_EQ((*left)->queued_bytes(), 0U);
}

TEST(Channel, ARegularFileIsReadAndWritten) { // pageferry qemu -- ... -qmp stdio < commands > answers
    boost::asio::io_context io;
    const Fd file{::memfd_create("commands", MFD_CLOEXEC)};
    ASSERT_EQ(::pwrite(file.get(), "commands", 8, 0), 8);
    const Fd answers{::memfd_create("answers", MFD_CLOEXEC)};
    auto channel = Channel::open(io, Fd{::dup(file.get())}, Fd{::dup(answers.get())});
    ASSERT_TRUE(channel) << channel.error().to_string();
    Seen seen;
    (*channel)->start(seen.handlers());
    (*channel)->send("answer");
    ASSERT_TRUE(run_until(io, [&] { return seen.ends == 1; }));
    EXPECT_EQ(seen.bytes, "commands");
    EXPECT_FALSE(seen.gone) << "its end is no reason not to write";
    std::array<char, 6> text{};
    ASSERT_EQ(::pread(answers.get(), text.data(), text.size(), 0), 6);
    EXPECT_EQ(std::string_view(text.data(), text.size()), "answer");
}

TEST(Channel, TellsAHalfCloseFromAWholeOne) {
    boost::asio::io_context io;
    auto [a, b] = socket_pair();
    auto left = Channel::open(io, std::move(a));
    Seen seen;
    (*left)->start(seen.handlers());
    ::shutdown(b.get(), SHUT_WR);
    ASSERT_TRUE(run_until(io, [&] { return seen.ends == 1; }));
    EXPECT_FALSE(seen.gone);
    b.reset();
    (*left)->send("anybody?");
    ASSERT_TRUE(run_until(io, [&] { return seen.gone; }));
    EXPECT_EQ(seen.ends, 2);
}

TEST(Channel, MayBeClosedFromItsOwnCallback) {
    boost::asio::io_context io;
    auto [a, b] = socket_pair();
    auto left = Channel::open(io, std::move(a));
    bool called = false;
    (*left)->start({.received =
                        [&](std::string_view, std::vector<Fd>) {
                            called = true;
                            left->reset();
                        },
                    .ended = {}});
    ASSERT_EQ(::write(b.get(), "x", 1), 1);
    ASSERT_TRUE(run_until(io, [&] { return called; }));
    char byte = 0;
    EXPECT_EQ(::read(b.get(), &byte, 1), 0);
}

TEST(Channel, ServesAPairOfPipes) {
    boost::asio::io_context io;
    std::array<int, 2> in{};
    std::array<int, 2> out{};
    ASSERT_EQ(::pipe(in.data()), 0);
    ASSERT_EQ(::pipe(out.data()), 0);
    Fd to{in[1]};
    Fd from{out[0]};
    auto channel = Channel::open(io, Fd{in[0]}, Fd{out[1]});
    ASSERT_TRUE(channel);
    Seen seen;
    (*channel)->start(seen.handlers());
    ASSERT_EQ(::write(to.get(), "ab", 2), 2);
    ASSERT_TRUE(run_until(io, [&] { return seen.bytes == "ab"; }));
    (*channel)->send("cd");
    std::array<char, 2> got{};
    EXPECT_EQ(::read(from.get(), got.data(), 2), 2);
    to.reset();
    ASSERT_TRUE(run_until(io, [&] { return seen.ends == 1; }));
    from.reset();
    (*channel)->send("e");
    ASSERT_TRUE(run_until(io, [&] { return seen.gone; })) << "a broken pipe is no signal";
}

} // namespace
} // namespace pageferry::monitor::test
