// The launcher with a real QEMU, and a stand-in for the monitor process (stand_in_monitor.cc).
#include "hypervisor/qemu/launcher.h"

#include "base/fd.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

namespace pageferry::hypervisor {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::chrono::seconds deadline{60};

std::string text_of(const fs::path& file) {
    std::ifstream in{file};
    return {std::istreambuf_iterator<char>{in}, {}};
}

template <class Condition>
bool eventually(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + deadline;
    while (!condition()) {
        if (std::chrono::steady_clock::now() > end) {
            return false;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds{10});
    }
    return true;
}

bool alive(pid_t pid) { // and no zombie
    const std::string stat = text_of("/proc/" + std::to_string(pid) + "/stat");
    const auto name_end = stat.rfind(')');
    return name_end != std::string::npos && stat.at(name_end + 2) != 'Z';
}

class Launcher : public testing::Test {
protected:
    void SetUp() override {
        std::string pattern = (fs::temp_directory_path() / "pageferry-launcher-XXXXXX").string();
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder = pattern;
        qmp = folder / "q";
    }
    void TearDown() override {
        for (const pid_t pid : {qemu, daemon}) {
            if (pid > 0) {
                ::kill(pid, SIGKILL);
            }
        }
        if (qemu > 0) {
            ::waitpid(qemu, nullptr, 0);
        }
        if (const pid_t monitor = monitor_pid(); monitor > 0) {
            EXPECT_TRUE(eventually([&] { return !alive(monitor); })) << "the monitor process outlived QEMU";
        }
        fs::remove_all(folder);
    }

    [[nodiscard]] json report() const { return json::parse(text_of(folder / "report"), nullptr, false); }
    [[nodiscard]] pid_t monitor_pid() const {
        const json found = report();
        return found.is_object() ? found["self"]["pid"].get<pid_t>() : 0;
    }

    // `pageferry qemu -- ARGS` in a child process.
    void start(std::vector<std::string> arguments, const std::string& behaviour = "") {
        qemu = ::fork();
        ASSERT_GE(qemu, 0);
        if (qemu != 0) {
            return;
        }
        ::setenv("PAGEFERRY_CONFIG", (folder / "no-settings").c_str(), 1);
        ::setenv("PAGEFERRY_LIBEXEC", PAGEFERRY_TEST_STAND_IN, 1);
        ::setenv("PAGEFERRY_TEST_REPORT", (folder / "report").c_str(), 1);
        ::setenv("PAGEFERRY_TEST_BEHAVE", behaviour.c_str(), 1);
        if (child_report) {
            ::setenv("PAGEFERRY_TEST_CHILD", (folder / "child").c_str(), 1);
        }
        const Fd out{::open((folder / "out").c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600)};
        const Fd in{::open(input.c_str(), O_RDWR | O_CLOEXEC)};
        ::dup2(in.get(), STDIN_FILENO);
        ::dup2(out.get(), STDOUT_FILENO);
        ::dup2(out.get(), STDERR_FILENO);
        ::_exit(run_qemu(std::move(arguments)));
    }

    void start_vm(const std::vector<std::string>& more, const std::string& behaviour = "",
                  const std::string& binary = "qemu-system-x86_64") {
        std::vector<std::string> words{binary, "-accel", "tcg", "-m", "64M", "-nodefaults", "-display", "none", "-S"};
        words.insert(words.end(), more.begin(), more.end());
        start(std::move(words), behaviour);
    }

    // The stand-in has looked at everything.
    [[nodiscard]] bool reported() const {
        return eventually([&] { return fs::exists(folder / "report") || !alive(qemu); }) && fs::exists(folder / "report");
    }

    int exit_status() {
        int status = 0;
        ::waitpid(qemu, &status, 0);
        qemu = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    [[nodiscard]] std::string output() const { return text_of(folder / "out"); }

    [[nodiscard]] Fd connect() const {
        Fd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        qmp.string().copy(address.sun_path, sizeof address.sun_path - 1);
        return ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 ? std::move(fd) : Fd{};
    }
    // The first line with this text in it; empty at the end.
    static std::string line_with(int fd, std::string_view text) {
        std::string line;
        for (;;) {
            pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
            char c = 0;
            if (::poll(&entry, 1, std::chrono::milliseconds{deadline}.count()) != 1 || ::read(fd, &c, 1) != 1) {
                return {};
            }
            if (c != '\n') {
                line += c;
            } else if (line.find(text) != std::string::npos) {
                return line;
            } else {
                line.clear();
            }
        }
    }
    static bool say(int fd, std::string_view text) {
        return ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    }

    fs::path folder;
    fs::path qmp;
    fs::path input = "/dev/null";
    pid_t qemu = -1;
    pid_t daemon = -1;
    bool child_report = false;
};

TEST_F(Launcher, QemuKeepsTheProcessIdAndEverythingWorks) {
    child_report = true;
    start_vm({"-qmp", "unix:" + qmp.string() + ",server=on,wait=off"});
    ASSERT_TRUE(reported()) << output();
    const json r = report();
    EXPECT_EQ(r["config"]["qemu_pid"], qemu);
    EXPECT_NE(fs::read_symlink("/proc/" + std::to_string(qemu) + "/exe").string().find("qemu-system"), std::string::npos);
    EXPECT_TRUE(r["greeting"].contains("QMP")) << r["greeting"];
    EXPECT_TRUE(r["negotiated"].contains("return"));
    ASSERT_EQ(r["agent"]["found"].size(), 1U) << r["agent"];
    const json& ram = r["agent"]["found"][0];
    EXPECT_EQ(ram["id"], "pc.ram");
    EXPECT_EQ(ram["length"], 64U * 1024 * 1024);
    EXPECT_EQ(ram["page_size"], 4096);
    EXPECT_EQ(ram["fd"], true);
    EXPECT_EQ(ram["writable"], true);
    EXPECT_EQ(ram["zap"], "");
    EXPECT_EQ(ram["zap_beyond"], false);
    EXPECT_EQ(r["agent"]["pagemap"], 0);
    EXPECT_EQ(r["agent"]["tracking"], 0);
    EXPECT_EQ(r["agent"]["faults"].size(), 8U);
    if (::geteuid() == 0) {
        for (const json& fault : r["agent"]["faults"]) {
            EXPECT_EQ(fault, 0);
        }
    }
    EXPECT_EQ(r["ram"]["return"][0]["share"], true);
    EXPECT_EQ(r["status"]["return"]["status"], "prelaunch");
    EXPECT_EQ(r["config"]["autostart"], false);

    const Fd client = connect();
    ASSERT_TRUE(client);
    EXPECT_NE(line_with(client.get(), "QMP"), "");
    EXPECT_TRUE(say(client.get(), "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-status\",\"id\":7}\n"));
    // Which status it is depends on how far the migration is by which the child was started.
    EXPECT_NE(line_with(client.get(), "\"id\": 7").find("\"status\": "), std::string::npos);

    // QEMU's children know nothing of us.
    ASSERT_TRUE(eventually([&] { return fs::exists(folder / "child"); })) << r["child"];
    const std::string child = text_of(folder / "child");
    EXPECT_NE(child.find("PATH="), std::string::npos);
    EXPECT_EQ(child.find("LD_PRELOAD"), std::string::npos) << child;
    EXPECT_EQ(child.find("PAGEFERRY"), std::string::npos) << child;
    for (const char* leaked : {"memfd:", "-> /pageferry-", "userfaultfd", "pagemap"}) {
        EXPECT_EQ(child.find(leaked), std::string::npos) << child;
    }

    const pid_t monitor = r["self"]["pid"];
    EXPECT_EQ(r["self"]["own_session"], true);
    EXPECT_TRUE(alive(monitor));
    ::kill(qemu, SIGKILL);
    EXPECT_EQ(exit_status(), 128 + SIGKILL);
    EXPECT_TRUE(eventually([&] { return !alive(monitor); }));
    EXPECT_FALSE(fs::exists(qmp));
}

TEST_F(Launcher, TheMonitorProcessHasOnlyItsOwnDescriptors) {
    const Fd strange{::open("/dev/zero", O_RDONLY)}; // inherited by QEMU, as a tap descriptor is
    start_vm({"-qmp", "unix:" + qmp.string() + ",server=on,wait=off"});
    ASSERT_TRUE(reported()) << output();
    const json r = report();
    for (const json& open : r["self"]["open"]) {
        EXPECT_EQ(open.get<std::string>().find("/dev/zero"), std::string::npos) << r["self"]["open"];
    }
    EXPECT_LE(r["self"]["open"].size(), 3U + 4U + 2U + 1U)
        << r["self"]["open"]; // stdio, four, a monitor's two, the folder being read
    EXPECT_EQ(fs::read_symlink("/proc/" + std::to_string(qemu) + "/fd/" + std::to_string(strange.get())), "/dev/zero");
}

TEST_F(Launcher, DescriptorsPassThroughTheBackend) {
    start_vm({"-qmp", "unix:" + qmp.string() + ",server=on,wait=off"}, "getfd");
    ASSERT_TRUE(reported()) << output();
    EXPECT_TRUE(report()["getfd"].contains("return")) << report()["getfd"];
}

TEST_F(Launcher, ASandboxDoesNotHinderTheAgent) {
    start_vm({"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"});
    ASSERT_TRUE(reported()) << output();
    EXPECT_EQ(report()["agent"]["found"].size(), 1U) << report()["agent"];
    EXPECT_EQ(report()["agent"]["found"][0]["zap"], "");
}

TEST_F(Launcher, AnotherUserDoesNotHinderTheAgent) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "changing the user needs root";
    }
    start_vm({"-runas", "nobody"});
    ASSERT_TRUE(reported()) << output();
    ASSERT_EQ(report()["agent"]["found"].size(), 1U) << report()["agent"];
    EXPECT_EQ(report()["agent"]["found"][0]["zap"], "");
    EXPECT_EQ(report()["agent"]["found"][0]["writable"], true);
}

TEST_F(Launcher, AScriptMayStandBeforeQemu) {
    const fs::path script = folder / "wrapper";
    std::ofstream{script} << "#!/bin/sh\nls / >/dev/null\nexec qemu-system-x86_64 \"$@\"\n";
    fs::permissions(script, fs::perms::owner_all);
    start_vm({}, "", script);
    ASSERT_TRUE(reported()) << output();
    EXPECT_EQ(report()["agent"]["found"].size(), 1U) << report()["agent"];
}

TEST_F(Launcher, ExplicitBackendsAreFound) {
    const std::string file = "/dev/shm/" + folder.filename().string();
    start({"qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-m", "64M", "-smp", "2", "-object",
           "memory-backend-file,id=a,size=32M,mem-path=" + file + ",share=on", "-object",
           "memory-backend-file,id=b,size=32M,mem-path=/dev/shm,share=on", "-numa", "node,memdev=a", "-numa", "node,memdev=b"});
    ASSERT_TRUE(reported()) << output();
    fs::remove(file);
    // The directory's file is found by its name; the other did not exist before QEMU, so it is found by its path alone.
    ASSERT_EQ(report()["agent"]["found"].size(), 1U) << report()["agent"];
    EXPECT_EQ(report()["agent"]["found"][0]["id"], "b");
    EXPECT_EQ(report()["config"]["ram"][0]["inode"], 0);
    EXPECT_EQ(report()["config"]["ram"][0]["mem_path"], file);
}

TEST_F(Launcher, AnInheritedListenerIsTheMonitorProcessesAlone) {
    Fd listener{::socket(AF_UNIX, SOCK_STREAM, 0)};
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    qmp.string().copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(::listen(listener.get(), 1), 0);
    start_vm({"-chardev", "socket,id=charmonitor,fd=" + std::to_string(listener.get()) + ",server=on,wait=off", "-mon",
              "chardev=charmonitor,id=monitor,mode=control"});
    listener.reset();
    const Fd client = connect(); // before QEMU is up, as libvirt does
    ASSERT_TRUE(client);
    EXPECT_NE(line_with(client.get(), "QMP"), "") << output();
    ASSERT_TRUE(reported());
    EXPECT_EQ(report()["config"]["user_monitors"][0]["unlink_path"], ""); // not ours
}

TEST_F(Launcher, WaitsForTheFirstClient) {
    start_vm({"-qmp", "unix:" + qmp.string() + ",server=on"});
    ASSERT_TRUE(eventually([&] { return output().find("waiting for connection") != std::string::npos; }));
    EXPECT_FALSE(fs::exists(folder / "report"));
    const Fd client = connect();
    ASSERT_TRUE(client);
    EXPECT_NE(line_with(client.get(), "QMP"), "");
}

TEST_F(Launcher, StdioCanBeTheMonitor) {
    input = folder / "in";
    ASSERT_EQ(::mkfifo(input.c_str(), 0600), 0);
    start_vm({"-qmp", "stdio"});
    const Fd writer{::open(input.c_str(), O_WRONLY)};
    ASSERT_TRUE(say(writer.get(), "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n"));
    EXPECT_EQ(exit_status(), 0) << output();
    // The monitor process passes on what QEMU said last after QEMU has ended.
    EXPECT_TRUE(eventually([&] { return output().find("\"QMP\"") != std::string::npos; })) << output();
}

TEST_F(Launcher, TcpMonitorsListenOnEveryAddressAndTryPorts) {
    Fd blocker{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    ASSERT_EQ(::bind(blocker.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(::listen(blocker.get(), 1), 0);
    ASSERT_EQ(::getsockname(blocker.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
    const unsigned port = ntohs(address.sin_port);
    start_vm({"-qmp", "tcp:127.0.0.1:" + std::to_string(port) + ",server=on,wait=off"});
    EXPECT_EQ(exit_status(), 1);
    EXPECT_NE(output().find("Address already in use"), std::string::npos) << output();
    start_vm({"-qmp", "tcp:127.0.0.1:" + std::to_string(port) + ",server=on,wait=off,to=" + std::to_string(port + 50)});
    ASSERT_TRUE(reported()) << output();
    EXPECT_GE(report()["config"]["user_monitors"][0]["listen_fd"], 3);
}

TEST_F(Launcher, AStaleSocketIsReplacedAndAnythingElseIsNot) {
    {
        Fd stale{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        qmp.string().copy(address.sun_path, sizeof address.sun_path - 1);
        ASSERT_EQ(::bind(stale.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    }
    start_vm({"-qmp", "unix:" + qmp.string() + ",server=on,wait=off"});
    ASSERT_TRUE(reported()) << output();
    ::kill(qemu, SIGKILL);
    exit_status();
    ASSERT_TRUE(eventually([&] { return !fs::exists(qmp); }));
    std::ofstream{qmp} << "precious";
    start_vm({"-qmp", "unix:" + qmp.string() + ",server=on,wait=off"});
    EXPECT_EQ(exit_status(), 1);
    EXPECT_EQ(text_of(qmp), "precious");
    EXPECT_NE(output().find("no socket"), std::string::npos) << output();
}

TEST_F(Launcher, AMonitorProcessThatFailsLeavesNothing) {
    for (const auto& [behaviour, words] :
         {std::pair{"fail", "the stand-in will not"}, std::pair{"exit", "ended before it was ready"}}) {
        start_vm({"-qmp", "unix:" + qmp.string() + ",server=on,wait=off"}, behaviour);
        EXPECT_EQ(exit_status(), 1);
        EXPECT_NE(output().find(words), std::string::npos) << output();
        EXPECT_FALSE(fs::exists(qmp));
    }
}

TEST_F(Launcher, ABinaryThatCannotBeExecutedIs127) {
    start({"qemu-system-nonesuch", "-m", "64M"});
    EXPECT_EQ(exit_status(), 127);
    EXPECT_NE(output().find("qemu-system-nonesuch"), std::string::npos);
    const fs::path broken = folder / "qemu-broken";
    std::ofstream{broken} << std::string("\x7f"
                                         "ELF",
                                         4)
                          << "nonsense";
    fs::permissions(broken, fs::perms::owner_all);
    start({broken, "-qmp", "unix:" + qmp.string() + ",server=on,wait=off"}, "exec fails");
    EXPECT_EQ(exit_status(), 127);
    EXPECT_NE(output().find("Exec format error"), std::string::npos) << output();
    EXPECT_FALSE(fs::exists(qmp));
    ASSERT_NE(monitor_pid(), 0);
    EXPECT_FALSE(alive(monitor_pid()));
}

TEST_F(Launcher, QueriesAreExecutedAsTheyAre) {
    start({"qemu-system-x86_64", "-version"});
    EXPECT_EQ(exit_status(), 0);
    EXPECT_EQ(output().find("QEMU emulator version"), 0U);
    EXPECT_FALSE(fs::exists(folder / "report"));
}

TEST_F(Launcher, WhatIsRefusedIsSaid) {
    start({"qemu-system-x86_64", "-object", "memory-backend-file,id=a,size=64M,mem-path=/dev/shm"});
    EXPECT_EQ(exit_status(), 1);
    EXPECT_NE(output().find("use -object memory-backend-file,id=a,size=64M,mem-path=/dev/shm,share=on"), std::string::npos)
        << output();
}

TEST_F(Launcher, DaemonizeReturnsWhenQemuIsUp) {
    const fs::path pidfile = folder / "pid";
    start_vm({"-daemonize", "-pidfile", pidfile.string(), "-qmp", "unix:" + qmp.string() + ",server=on,wait=off"});
    EXPECT_EQ(exit_status(), 0) << output();
    ASSERT_TRUE(fs::exists(pidfile));
    daemon = std::stoi(text_of(pidfile));
    EXPECT_TRUE(alive(daemon));
    EXPECT_EQ(fs::read_symlink("/proc/" + std::to_string(daemon) + "/fd/0"), "/dev/null");
    EXPECT_EQ(::getsid(daemon), daemon);
    const Fd client = connect();
    ASSERT_TRUE(client);
    EXPECT_NE(line_with(client.get(), "QMP"), "");
    ASSERT_TRUE(eventually([&] { return fs::exists(folder / "report"); }));
    EXPECT_EQ(report()["config"]["qemu_pid"], daemon);
    ::kill(daemon, SIGKILL);
    EXPECT_TRUE(eventually([&] { return !alive(daemon) && !fs::exists(qmp); }));
    daemon = -1;
}

TEST_F(Launcher, DaemonizeTellsOfAQemuThatDoesNotStart) {
    start_vm({"-daemonize", "-device", "no-such-device", "-qmp", "unix:" + qmp.string() + ",server=on,wait=off"});
    EXPECT_EQ(exit_status(), 1);
    EXPECT_NE(output().find("no-such-device"), std::string::npos) << output();
    EXPECT_TRUE(eventually([&] { return !fs::exists(qmp); }));
}

} // namespace
} // namespace pageferry::hypervisor
