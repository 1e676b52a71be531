// The server in front of this machine's real QEMU: what a client sees through it is what it sees on QEMU itself.
#include "bench.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <random>

namespace pageferry::monitor::test {
namespace {

// A guest that does not run, with one QMP monitor on each of the given sockets. Gone with this object.
class Qemu {
public:
    Qemu(std::vector<Fd> monitors, std::vector<std::string> machine) {
        std::vector<std::string> words{PAGEFERRY_TEST_QEMU, "-nodefaults", "-display", "none", "-accel", "tcg"};
        words.insert(words.end(), machine.begin(), machine.end());
        for (const Fd& fd : monitors) {
            const std::string number = std::to_string(fd.get());
            words.insert(words.end(),
                         {"-chardev", "socket,id=m" + number + ",fd=" + number, "-mon", "chardev=m" + number + ",mode=control"});
        }
        std::vector<char*> arguments;
        for (std::string& word : words) {
            arguments.push_back(word.data());
        }
        arguments.push_back(nullptr);
        pid_ = ::fork();
        if (pid_ == 0) {
            for (const Fd& fd : monitors) {
                ::fcntl(fd.get(), F_SETFD, 0);
            }
            ::execv(arguments[0], arguments.data());
            ::_exit(127);
        }
    }
    Qemu(const Qemu&) = delete;
    Qemu& operator=(const Qemu&) = delete;
    ~Qemu() { kill(); }
    void kill() {
        if (pid_ > 0) {
            ::kill(pid_, SIGKILL);
            ::waitpid(pid_, nullptr, 0);
            pid_ = -1;
        }
    }

private:
    pid_t pid_ = -1;
};

// One monitor through the server ("qmp"), one directly.
struct WithQemu : testing::Test {
    Bench bench;
    std::unique_ptr<Peer> direct;
    std::unique_ptr<Qemu> qemu;

    void boot(std::vector<std::string> machine = {"-machine", "none"}) {
        auto [ours, theirs] = socket_pair();
        auto [plain, plain_theirs] = socket_pair();
        std::vector<Fd> monitors;
        monitors.push_back(std::move(theirs));
        monitors.push_back(std::move(plain_theirs));
        qemu = std::make_unique<Qemu>(std::move(monitors), std::move(machine));
        bench.serve("qmp", std::move(ours));
        direct = std::make_unique<Peer>(bench.io, std::move(plain));
        EXPECT_TRUE(direct->next().contains("QMP"));
    }
    void direct_command_mode(bool oob = false) {
        direct->say(command("qmp_capabilities", nullptr, oob ? json{{"enable", {"oob"}}} : json(nullptr)));
        EXPECT_EQ(direct->reply(), json({{"return", json::object()}}));
    }
};

TEST_F(WithQemu, TheGreetingIsItsOwn) {
    auto [ours, theirs] = socket_pair();
    std::vector<Fd> monitors;
    monitors.push_back(std::move(theirs));
    qemu = std::make_unique<Qemu>(std::move(monitors), std::vector<std::string>{"-machine", "none"});
    bench.serve("qmp", std::move(ours));
    const json hello = bench.connect("qmp").next();
    EXPECT_TRUE(hello["QMP"]["version"]["qemu"].contains("major"));
    EXPECT_EQ(hello["QMP"]["capabilities"], json({"oob"}));
}

TEST_F(WithQemu, AnswersAreTheSameThroughTheServer) {
    boot();
    direct_command_mode(true);
    Peer c = bench.command_mode("qmp", true);
    for (const json& ask : std::vector<json>{command("query-status", 1),
                                             command("query-version", "two"),
                                             command("query-commands", {{"deep", {1, nullptr}}}),
                                             command("query-qmp-schema", 4),
                                             command("nonsense", 5),
                                             command("query-status", 6, {{"x", 1}}),
                                             command("object-add", 7, {{"qom-type", "zork"}, {"id", "x"}}),
                                             {{"exec-oob", "query-status"}, {"id", 8}},
                                             {{"execute", "query-status"}, {"foo", 1}},
                                             {{"execute", 5}},
                                             {{"execute", "query-status"}, {"exec-oob", "stop"}},
                                             json({1, 2}),
                                             json(5),
                                             json("text"),
                                             json::object(),
                                             {{"execute", "query-status"}, {"arguments", 5}},
                                             {{"exec-oob", "migrate"}, {"id", 9}}}) {
        c.say(ask);
        direct->say(ask);
        EXPECT_EQ(c.reply(), direct->reply()) << ask;
    }
}

TEST_F(WithQemu, GarbageGetsTheSameAnswers) {
    boot();
    direct_command_mode();
    Peer c = bench.command_mode("qmp");
    // After each piece of garbage a 0xff byte, which ends what it may have begun, and a command that marks the end of the answers
    // to it.
    const std::vector<std::string> garbage{"\xff",
                                           "hello world\n",
                                           "@",
                                           "}",
                                           "]",
                                           "{]",
                                           "[}",
                                           "{\"a\" 1}",
                                           "{\"a\":1,}",
                                           "[1,]",
                                           "{\"execute\": nope}",
                                           "{\"a\":1,\"a\":2}",
                                           "{\x01\"execute\":1}",
                                           "01",
                                           "-x",
                                           "1.x",
                                           "1ex",
                                           "1e+x",
                                           "{\"a\": \"\\q\"}",
                                           "{\"a\": \"\\ud800\"}",
                                           "{\"a\": \"\\u12x4\"}",
                                           "{\"a\": \"\xc3\x28\"}",
                                           "{'a': 'b\"c'}",
                                           "{\"a\": tru}",
                                           "{1:2}",
                                           "[1 2]",
                                           "{\"a\":1 \"b\":2}",
                                           "\"unclosed\n",
                                           "'x\n",
                                           "nul\n",
                                           "+1",
                                           "%d",
                                           "{\"a\": %d}",
                                           std::string(1100, '[') + "\n",
                                           "{\"a\":\t[\r\n1]}",
                                           "\"\\u0000\"\n",
                                           "[\"\xf0\x9f\x98\x80\"]",
                                           "{\"a\": -}",
                                           "{\"a\": 0x10}",
                                           "\xfe",
                                           "\x80",
                                           "{\"\xed\xa0\x80\":1}",
                                           std::string("{\0}", 3),
                                           ",",
                                           ":",
                                           "{,}",
                                           "{\"a\":}",
                                           "[,]",
                                           "{\"a\"}",
                                           "true false null\n",
                                           "{\"a\":1]}",
                                           "[{]}",
                                           "-0\n",
                                           "1.5e3\n",
                                           "{\"execute\":\"qmp_capabilities\"",
                                           "TRUE",
                                           "{\"a\":\"\\u00e9\\/\\b\"}"};
    int marker = 0;
    for (const std::string& piece : garbage) {
        const json mark = "mark " + std::to_string(++marker);
        const std::string sent = piece + "\xff" + command("query-name", mark).dump() + "\n";
        std::array<std::vector<json>, 2> answers;
        std::array<Peer*, 2> peers{&c, direct.get()};
        for (std::size_t i = 0; i < peers.size(); ++i) {
            peers.at(i)->send(sent);
            for (;;) {
                json answer = peers.at(i)->reply();
                ASSERT_TRUE(answer.is_object()) << piece;
                const bool last = answer.value("id", json()) == mark;
                answers.at(i).push_back(std::move(answer));
                if (last) {
                    break;
                }
            }
        }
        EXPECT_EQ(answers[0], answers[1]) << piece;
    }
}

TEST_F(WithQemu, PipelinedCommandsAreAnsweredInOrderWithTheirIds) {
    boot();
    Peer c = bench.command_mode("qmp");
    std::mt19937 random{20240611}; // NOLINT: the same each time
    const std::array<std::string, 7> names{
        "query-status", "query-migrate", "query-version", "query-migrate-parameters", "nonsense", "query-migrate-capabilities",
        "query-name"};
    constexpr int count = 1000;
    std::string all;
    for (int i = 0; i < count; ++i) {
        all += command(names.at(random() % names.size()), i).dump();
        all.append(random() % 3, '\n');
    }
    std::size_t sent = 0;
    for (int i = 0; i < count; ++i) {
        while (sent < all.size()) {
            const std::string_view piece = std::string_view{all}.substr(sent, 1 + random() % 700);
            if (!c.try_send(piece)) {
                break;
            }
            sent += piece.size();
        }
        const json answer = c.reply();
        ASSERT_EQ(answer.value("id", json()), i) << answer;
    }
}

TEST_F(WithQemu, DescriptorsReachIt) {
    boot();
    Peer c = bench.command_mode("qmp");
    const Fd file{::memfd_create("passed", MFD_CLOEXEC)};
    ASSERT_TRUE(file);
    c.send(command("query-migrate", 0).dump() + command("getfd", 1, {{"fdname", "one"}}).dump(), {file.get()});
    EXPECT_EQ(c.reply()["id"], 0);
    EXPECT_EQ(c.reply(), json({{"return", json::object()}, {"id", 1}}));
    c.say(command("closefd", 2, {{"fdname", "one"}}));
    EXPECT_EQ(c.reply(), json({{"return", json::object()}, {"id", 2}}));
    c.send(command("add-fd", 3, {{"fdset-id", 7}}).dump(), {file.get()});
    EXPECT_EQ(c.reply()["return"]["fdset-id"], 7);
    c.say(command("query-fdsets", 4));
    EXPECT_EQ(c.reply()["return"].size(), 1U);
    c.say(command("getfd", 5, {{"fdname", "two"}}));
    EXPECT_EQ(c.reply()["error"]["desc"], "No file descriptor supplied via SCM_RIGHTS");
}

TEST_F(WithQemu, EventsPassAndOursComeInTheirPlace) {
    boot({"-machine", "pc", "-m", "16", "-S"});
    ASSERT_TRUE(bench.capabilities.set({{"capabilities", {{{"capability", "events"}, {"state", true}}}}}).has_value());
    direct_command_mode();
    Peer c = bench.command_mode("qmp");
    direct->say(command("cont", 1));
    EXPECT_EQ(direct->reply()["id"], 1);
    bench.sink.broadcast("MIGRATION", {{"status", "completed"}}); // what the answer to cont implied is on the wire already
    EXPECT_EQ(c.next()["event"], "RESUME");
    EXPECT_EQ(c.next()["data"]["status"], "completed");
    c.say(command("stop", 2));
    EXPECT_EQ(c.next()["event"], "STOP");
    EXPECT_EQ(c.next()["id"], 2);
}

TEST_F(WithQemu, ContAndStopAreHeldBackWhereTheServiceSaysSo) {
    boot({"-machine", "pc", "-m", "16", "-S"});
    Peer c = bench.command_mode("qmp");
    bench.service.hold = true;
    c.say(command("cont", 1));
    EXPECT_EQ(c.reply(), json({{"return", json::object()}, {"id", 1}}));
    c.say(command("query-status", 2));
    EXPECT_EQ(c.reply()["return"]["running"], false);
    bench.service.hold = false;
    c.say(command("cont", 3));
    EXPECT_EQ(c.reply()["id"], 3);
    c.say(command("query-status", 4));
    EXPECT_EQ(c.reply()["return"]["running"], true);
}

TEST_F(WithQemu, AMigrationToAFileIsItsOwnWithItsEvents) {
    boot({"-machine", "pc", "-m", "16", "-S"});
    direct_command_mode();
    direct->say(command("migrate-set-capabilities", 1, {{"capabilities", {{{"capability", "events"}, {"state", true}}}}}));
    EXPECT_EQ(direct->reply()["id"], 1);
    Peer c = bench.command_mode("qmp");
    const std::string path = bench.directory + "/image";
    const Fd file{::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
    c.send(command("getfd", 2, {{"fdname", "migrate"}}).dump(), {file.get()});
    EXPECT_EQ(c.reply()["id"], 2);
    c.say(command("migrate", 3, {{"uri", "fd:migrate"}}));
    EXPECT_EQ(c.reply()["id"], 3);
    EXPECT_EQ(bench.service.asked, (std::vector<std::string>{"native"}));
    std::string status;
    while (status != "completed" && status != "failed") {
        c.say(command("query-migrate", 4));
        const json answer = c.reply();
        ASSERT_TRUE(answer.is_object());
        status = answer["return"].value("status", "none");
    }
    EXPECT_EQ(status, "completed");
    EXPECT_TRUE(std::ranges::any_of(c.events, [](const json& event) { return event["event"] == "MIGRATION"; }));
    struct stat facts{};
    ASSERT_EQ(::fstat(file.get(), &facts), 0);
    EXPECT_GT(facts.st_size, 100'000);
}

TEST_F(WithQemu, AClientThatLeavesInTheMiddleDoesNotDisturbTheNext) {
    boot();
    for (int i = 0; i < 20; ++i) {
        Peer c = bench.command_mode("qmp");
        c.send(command("query-qmp-schema", i).dump() + command("query-status", i).dump() + "{\"execute\": \"query-na");
    }
    Peer c = bench.command_mode("qmp");
    c.say(command("query-status", "mine"));
    EXPECT_EQ(c.next()["id"], "mine");
}

TEST_F(WithQemu, ItsDeathEndsTheMonitor) {
    boot();
    Peer c = bench.command_mode("qmp");
    bool told = false;
    bench.servers[0]->on_closed([&] { told = true; });
    qemu->kill();
    EXPECT_TRUE(c.closed());
    EXPECT_TRUE(run_until(bench.io, [&] { return told; }));
}

} // namespace
} // namespace pageferry::monitor::test
