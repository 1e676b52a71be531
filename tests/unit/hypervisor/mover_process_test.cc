// A mover process from the outside: shell scripts take the mover's place. The link is their descriptor 3, where one write is one
// message, and one read by dd as well.
#include "hypervisor/monitor_process/mover_process.h"

#include <gtest/gtest.h>

#include <boost/asio/post.hpp>

#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace pageferry::hypervisor {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::chrono::seconds deadline{60};

// It does nothing until its link is gone, and reads all it is sent.
constexpr const char* wait_for_end = "exec cat <&3 >/dev/null\n";

std::size_t open_descriptors() {
    const fs::directory_iterator all{"/proc/self/fd"};
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

class MoverProcessTest : public testing::Test {
protected:
    void SetUp() override {
        std::string pattern = (fs::path{testing::TempDir()} / "pageferry-mover-XXXXXX").string();
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder = pattern;
    }
    void TearDown() override {
        mover.reset();
        fs::remove_all(folder);
    }

    [[nodiscard]] fs::path script(const std::string& text) const {
        const fs::path path = folder / "mover";
        std::ofstream{path} << "#!/bin/sh\n" << text;
        fs::permissions(path, fs::perms::owner_all);
        return path;
    }
    Result<void> try_start(const std::string& program) {
        auto made = MoverProcess::start(io, program,
                                        {.message = [this](LinkMessage& message) { heard.push_back(std::move(message.body)); },
                                         .ended = [this](const std::string& how) { endings.push_back(how); }});
        if (!made) {
            return std::unexpected(std::move(made.error()));
        }
        mover = std::move(*made);
        return {};
    }
    void start(const std::string& text) {
        const auto started = try_start(script(text).string());
        ASSERT_TRUE(started) << started.error().to_string();
    }
    template <class Condition>
    [[nodiscard]] bool run_until(Condition condition) {
        const auto end = std::chrono::steady_clock::now() + deadline;
        while (!condition()) {
            if (std::chrono::steady_clock::now() > end) {
                return false;
            }
            io.restart();
            io.run_one_for(std::chrono::milliseconds{100});
        }
        return true;
    }
    [[nodiscard]] bool run_to_end() {
        return run_until([this] { return !endings.empty(); });
    }
    [[nodiscard]] bool run_to_message(std::size_t count = 1) {
        return run_until([&] { return heard.size() >= count; });
    }

    boost::asio::io_context io;
    fs::path folder;
    std::unique_ptr<MoverProcess> mover;
    std::vector<json> heard;
    std::vector<std::string> endings;
};

TEST_F(MoverProcessTest, AProgramThatIsNotThereIsAnErrorWithARemedy) {
    const std::size_t before = open_descriptors();
    const auto missing = try_start((folder / "nothing").string());
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().code, ErrorCode::not_found);
    EXPECT_FALSE(missing.error().remedy.empty());
    const fs::path path = script("exit 0\n");
    fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write);
    const auto forbidden = try_start(path.string());
    ASSERT_FALSE(forbidden);
    EXPECT_EQ(forbidden.error().code, ErrorCode::permission);
    EXPECT_EQ(open_descriptors(), before);
}

TEST_F(MoverProcessTest, AProgramThatCannotBeRunEnds) {
    ASSERT_TRUE(try_start(folder.string())); // a directory: it may be searched, so it looks like a program
    ASSERT_TRUE(run_to_end());
    EXPECT_EQ(endings.front(), "exit status 127");
}

TEST_F(MoverProcessTest, GetsTheLinkAsDescriptorThreeAndNoOtherOfOurs) {
    const Fd inherited{::fcntl(STDERR_FILENO, F_DUPFD, 50)}; // a number the shell has no use for
    ASSERT_GE(inherited.get(), 50);
    start("open=; for n in 0 1 2 3 " + std::to_string(inherited.get()) +
          "; do [ -e /proc/self/fd/$n ] && open=\"$open $n\"; done\n"
          "printf '{\"arguments\":\"%s\",\"open\":\"%s\"}' \"$*\" \"$open\" >&3\n");
    ASSERT_TRUE(run_to_end());
    ASSERT_EQ(heard.size(), 1U);
    EXPECT_EQ(heard[0]["arguments"], "--link-fd 3");
    EXPECT_EQ(heard[0]["open"], " 0 1 2 3");
}

TEST_F(MoverProcessTest, WhatItSaidComesInOrderAndBeforeItsEnd) {
    start("for n in 0 1 2 3 4 5 6 7 8 9; do printf '{\"number\":%d}' $n >&3; done\nexit 7\n");
    EXPECT_TRUE(heard.empty()); // handlers do not run inside start()
    ASSERT_TRUE(run_until([this] {
        EXPECT_TRUE(endings.empty() || heard.size() == 10);
        return !endings.empty();
    }));
    ASSERT_EQ(heard.size(), 10U);
    for (std::size_t i = 0; i < heard.size(); ++i) {
        EXPECT_EQ(heard[i]["number"], i);
    }
    EXPECT_EQ(endings, std::vector<std::string>{"exit status 7"});
}

TEST_F(MoverProcessTest, HearsWhatItIsSentAndAnswers) {
    start(std::string{"dd bs=65536 count=1 <&3 >&3 2>/dev/null\n"
                      "dd bs=65536 count=1 <&3 >&3 2>/dev/null\n"} +
          wait_for_end);
    const json first = {{"type", "start"}, {"uri", "tcp:host:4444"}};
    ASSERT_TRUE(mover->send(first));
    EXPECT_TRUE(heard.empty()); // nor inside send()
    ASSERT_TRUE(run_to_message());
    EXPECT_EQ(heard.back(), first);
    ASSERT_TRUE(mover->send({{"type", "cancel"}}));
    ASSERT_TRUE(run_to_message(2));
    EXPECT_EQ(heard.back()["type"], "cancel");
    EXPECT_TRUE(endings.empty());
}

TEST_F(MoverProcessTest, KillEndsItAndTheSignalIsTold) {
    start(std::string{"printf '{\"type\":\"ready\"}' >&3\n"} + wait_for_end);
    ASSERT_TRUE(run_to_message());
    const pid_t pid = mover->pid();
    EXPECT_EQ(::kill(pid, 0), 0);
    mover->kill();
    ASSERT_TRUE(run_to_end());
    EXPECT_EQ(endings, std::vector<std::string>{"killed by signal 9 (Killed)"});
    EXPECT_EQ(::kill(pid, 0), -1); // buried
    EXPECT_EQ(errno, ESRCH);
    mover->kill(); // nobody else, who may have the number by now
    const auto sent = mover->send(json::object());
    ASSERT_FALSE(sent);
    EXPECT_EQ(sent.error().code, ErrorCode::closed);
}

TEST_F(MoverProcessTest, ASignalOfItsOwnIsToldToo) {
    start("kill -TERM $$\n");
    ASSERT_TRUE(run_to_end());
    EXPECT_EQ(endings, std::vector<std::string>{"killed by signal 15 (Terminated)"});
}

TEST_F(MoverProcessTest, OneThatDoesNotSpeakTheProtocolIsKilled) {
    for (const char* garbage :
         {"printf 'not JSON' >&3\n", "printf '[]' >&3\n", "dd if=/dev/zero bs=150000 count=1 >&3 2>/dev/null\n"}) {
        SCOPED_TRACE(garbage);
        heard.clear();
        endings.clear();
        start(std::string{"printf '{\"type\":\"ready\"}' >&3\n"} + garbage + wait_for_end);
        ASSERT_TRUE(run_to_end());
        EXPECT_EQ(heard.size(), 1U); // what was right before
        EXPECT_EQ(endings, std::vector<std::string>{"killed by signal 9 (Killed)"});
        mover.reset();
    }
}

TEST_F(MoverProcessTest, ItsLinkMayEndBeforeIt) {
    const fs::path fifo = folder / "fifo";
    ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
    const Fd leave{::open(fifo.c_str(), O_RDWR | O_CLOEXEC)};
    start("exec 3>&-\nread line <" + fifo.string() + "\nexit 5\n");
    ASSERT_TRUE(run_until([this] {
        const auto sent = mover->send(json::object());
        return !sent && sent.error().code == ErrorCode::closed;
    }));
    EXPECT_TRUE(endings.empty());
    ASSERT_EQ(::write(leave.get(), "\n", 1), 1);
    ASSERT_TRUE(run_to_end());
    EXPECT_EQ(endings, std::vector<std::string>{"exit status 5"});
}

TEST_F(MoverProcessTest, GoesWithItsOwnerAndNothingIsHeardAfterwards) {
    // The reactor's descriptors are there once it has been used.
    start("exit 0\n");
    ASSERT_TRUE(run_to_end());
    mover.reset();
    endings.clear();
    const std::size_t before = open_descriptors();

    start(std::string{"printf '{\"type\":\"ready\"}' >&3\n"} + wait_for_end);
    const pid_t pid = mover->pid();
    ASSERT_TRUE(run_to_message());
    mover.reset();
    EXPECT_EQ(::kill(pid, 0), -1);
    EXPECT_EQ(errno, ESRCH);
    EXPECT_EQ(open_descriptors(), before);
    io.restart();
    io.run_for(deadline); // the cancelled waits are all that is left, so it returns
    EXPECT_TRUE(io.stopped());
    EXPECT_EQ(heard.size(), 1U);
    EXPECT_TRUE(endings.empty());
}

// Both ends of the first one, its link's and its process's, are told in one go; what is left of that must not be taken for the
// next one's.
TEST_F(MoverProcessTest, IsNotBuriedForAnEndOfTheOneBefore) {
    for (int i = 0; i < 20; ++i) {
        start("exit 0\n");
        siginfo_t ended{};
        ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(mover->pid()), &ended, WEXITED | WNOWAIT), 0);
        ASSERT_TRUE(run_to_end());
        mover.reset();
        endings.clear();
        heard.clear();
        start(std::string{"printf '{\"type\":\"ready\"}' >&3\n"} + wait_for_end);
        ASSERT_TRUE(run_to_message());
        EXPECT_TRUE(endings.empty());
        mover.reset();
    }
}

TEST_F(MoverProcessTest, MayGoFromItsOwnLastWord) { // as a migration does: not inside the handler, but right after it
    auto made = MoverProcess::start(io, script("printf '{\"type\":\"ended\"}' >&3\nexit 0\n").string(),
                                    {.message = [this](LinkMessage&) { boost::asio::post(io, [this] { mover.reset(); }); },
                                     .ended = [this](const std::string&) { boost::asio::post(io, [this] { mover.reset(); }); }});
    ASSERT_TRUE(made) << made.error().to_string();
    mover = std::move(*made);
    const pid_t pid = mover->pid();
    ASSERT_TRUE(run_until([this] { return !mover; }));
    EXPECT_EQ(::kill(pid, 0), -1);
    EXPECT_EQ(errno, ESRCH);
}

} // namespace
} // namespace pageferry::hypervisor
