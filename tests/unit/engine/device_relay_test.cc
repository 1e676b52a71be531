#include "engine/device_relay.h"

#include <poll.h>
#include <sys/socket.h>

#include <gtest/gtest.h>

#include <array>
#include <string>

namespace pageferry::engine {
namespace {

using std::chrono::seconds;

std::vector<std::byte> bytes_of(const std::string& text) {
    const auto* first = reinterpret_cast<const std::byte*>(text.data());
    return {first, first + text.size()};
}

struct Pair {
    Fd ours;
    Fd theirs;
};

Pair make_pair() {
    std::array<int, 2> ends{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    return {.ours = Fd{ends[0]}, .theirs = Fd{ends[1]}};
}

std::string read_exactly(const Fd& fd, std::size_t size) {
    std::string text(size, '\0');
    EXPECT_EQ(::recv(fd.get(), text.data(), size, MSG_WAITALL), static_cast<ssize_t>(size));
    return text;
}

bool readable(const Fd& fd) {
    pollfd polled{.fd = fd.get(), .events = POLLIN, .revents = 0};
    return ::poll(&polled, 1, 0) == 1;
}

TEST(DeviceRelay, DrainSaysThatAllThatWasWrittenIsWithTheSink) {
    auto pair = make_pair();
    std::string seen; // written by the relay's thread before drain() returns
    auto relay = DeviceRelay::create(std::move(pair.ours), [&](std::span<const std::byte> bytes) -> Result<void> {
        seen.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        return {};
    });
    ASSERT_TRUE(relay);
    ASSERT_TRUE((*relay)->begin());
    std::string sent;
    for (int round = 0; round < 50; ++round) {
        const std::string text(1000 + static_cast<std::size_t>(round) * 997, static_cast<char>('a' + round % 26));
        ASSERT_EQ(::send(pair.theirs.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
        sent += text;
        ASSERT_TRUE((*relay)->drain(seconds{60}));
        ASSERT_EQ(seen, sent);
        ASSERT_EQ((*relay)->bytes_read(), sent.size());
    }
}

TEST(DeviceRelay, HoldsBackFromTheSwitchoverOnAndKeepsTheOrder) {
    auto pair = make_pair();
    auto relay = DeviceRelay::create(std::move(pair.ours), [](std::span<const std::byte>) { return Result<void>{}; });
    ASSERT_TRUE(relay);
    ASSERT_TRUE((*relay)->begin());
    ASSERT_TRUE((*relay)->write(bytes_of("before ")));
    EXPECT_EQ(read_exactly(pair.theirs, 7), "before ");
    (*relay)->hold();
    ASSERT_TRUE((*relay)->write(bytes_of("held1 ")));
    ASSERT_TRUE((*relay)->write(bytes_of("held2 ")));
    ASSERT_TRUE((*relay)->drain(seconds{60})); // the relay's thread has been round
    EXPECT_FALSE(readable(pair.theirs));
    (*relay)->release();
    ASSERT_TRUE((*relay)->write(bytes_of("after")));
    EXPECT_EQ(read_exactly(pair.theirs, 17), "held1 held2 after");
    EXPECT_EQ((*relay)->bytes_written(), 24U);
}

TEST(DeviceRelay, CarriesMoreThanTheSocketHolds) {
    auto pair = make_pair();
    auto relay = DeviceRelay::create(std::move(pair.ours), [](std::span<const std::byte>) { return Result<void>{}; });
    ASSERT_TRUE(relay);
    ASSERT_TRUE((*relay)->begin());
    std::string sent;
    for (int i = 0; i < 64; ++i) {
        sent.append(65536, static_cast<char>('A' + i % 60));
        ASSERT_TRUE((*relay)->write(bytes_of(sent.substr(sent.size() - 65536))));
    }
    EXPECT_EQ(read_exactly(pair.theirs, sent.size()), sent);
}

TEST(DeviceRelay, ASinkThatFailsEndsItAndDrainTells) {
    auto pair = make_pair();
    auto relay = DeviceRelay::create(std::move(pair.ours), [](std::span<const std::byte>) -> Result<void> {
        return std::unexpected(make_error(ErrorCode::closed, "send", "control lane", "the peer is gone"));
    });
    ASSERT_TRUE(relay);
    ASSERT_TRUE((*relay)->begin());
    ASSERT_EQ(::send(pair.theirs.get(), "x", 1, 0), 1);
    const auto drained = (*relay)->drain(seconds{60});
    ASSERT_FALSE(drained);
    EXPECT_EQ(drained.error().code, ErrorCode::closed);
}

TEST(DeviceRelay, AHypervisorThatClosesIsAnErrorForWhoeverWrites) {
    auto pair = make_pair();
    auto relay = DeviceRelay::create(std::move(pair.ours), [](std::span<const std::byte>) { return Result<void>{}; });
    ASSERT_TRUE(relay);
    ASSERT_TRUE((*relay)->begin());
    pair.theirs.reset();
    ASSERT_TRUE((*relay)->write(bytes_of("lost")));
    EXPECT_FALSE((*relay)->drain(seconds{60}) && (*relay)->drain(seconds{60}));
    EXPECT_FALSE((*relay)->write(bytes_of("refused")));
}

} // namespace
} // namespace pageferry::engine
