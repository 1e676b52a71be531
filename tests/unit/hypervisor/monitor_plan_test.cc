#include "tests/unit/hypervisor/fake_host.h"

#include <gtest/gtest.h>

namespace pageferry::hypervisor::test {
namespace {

const std::string base = "qemu-system-x86_64 -nodefaults ";
const std::string own = "-chardev socket,id=pageferry.qmp,fd=@qmp -mon chardev=pageferry.qmp,mode=control";

// The monitors' part of the planned line, without what the RAM added.
std::string monitors_part(const LaunchPlan& made) {
    std::string text = line_of(made);
    const auto ram = text.find(" -object memory-backend-file");
    const auto end = text.find("-machine memory-backend=pc.ram");
    return text.substr(0, ram) + text.substr(end + 30);
}

struct Taken {
    const char* line;
    const char* becomes;
    PlannedMonitor monitor;
};

TEST(MonitorPlan, ControlMonitorsAreTakenOver) {
    using enum MonitorKind;
    const char* user0 = "-chardev socket,id=pageferry.user0,fd=@user0 -mon chardev=pageferry.user0,mode=control";
    const std::vector<Taken> rows{
        {"-qmp unix:/run/vm.qmp,server=on,wait=off",
         user0,
         {.address = "unix:/run/vm.qmp", .kind = unix_listen, .path = "/run/vm.qmp"}},
        {"-qmp unix:/run/vm.qmp,server,nowait",
         user0,
         {.address = "unix:/run/vm.qmp", .kind = unix_listen, .path = "/run/vm.qmp"}},
        {"-qmp unix:/run/vm.qmp,server",
         user0,
         {.address = "unix:/run/vm.qmp", .kind = unix_listen, .path = "/run/vm.qmp", .wait = true}},
        {"-qmp unix:/run/vm.qmp", user0, {.address = "unix:/run/vm.qmp", .kind = unix_connect, .path = "/run/vm.qmp"}},
        {"-qmp unix:a,,b,server=on,wait=off,abstract=on,tight=off",
         user0,
         {.address = "unix:a,b", .kind = unix_listen, .path = "a,b", .abstract = true, .tight = false}},
        {"-qmp tcp:localhost:4444,server,nowait",
         user0,
         {.address = "tcp:localhost:4444", .kind = tcp_listen, .host = "localhost", .port = "4444"}},
        {"-qmp tcp::4444,server=on,wait=off,ipv4=on,nodelay=on,to=4450",
         user0,
         {.address = "tcp::4444", .kind = tcp_listen, .port = "4444", .to = 4450, .ipv4 = true, .nodelay = true}},
        {"-qmp tcp:[::1]:4444", user0, {.address = "tcp:::1:4444", .kind = tcp_connect, .host = "::1", .port = "4444"}},
        {"-qmp stdio", user0, {.address = "stdio", .kind = stdio}},
        {"-qmp-pretty stdio",
         "-chardev socket,id=pageferry.user0,fd=@user0 -mon chardev=pageferry.user0,mode=control,pretty=on",
         {.address = "stdio", .kind = stdio, .pretty = true}},
        {"-chardev socket,id=m,path=/run/q,server=on,wait=off -mon chardev=m,mode=control",
         "-chardev socket,id=m,fd=@user0 -mon chardev=m,mode=control",
         {.id = "m", .address = "unix:/run/q", .kind = unix_listen, .path = "/run/q"}},
        {"-mon m,mode=control,pretty=on -chardev socket,id=m,host=h,port=5,server=on,wait=off,logfile=/tmp/l,,og,logappend=on",
         "-mon m,mode=control,pretty=on -chardev socket,id=m,fd=@user0,logfile=/tmp/l,,og,logappend=on",
         {.id = "m", .address = "tcp:h:5", .kind = tcp_listen, .host = "h", .port = "5", .pretty = true}},
        {"-chardev socket,id=charmonitor,fd=29,server=on,wait=off -mon chardev=charmonitor,id=monitor,mode=control",
         "-chardev socket,id=charmonitor,fd=@user0 -mon chardev=charmonitor,id=monitor,mode=control",
         {.id = "charmonitor", .address = "fd:29", .kind = fd_listen, .fd = 29}},
        {"-chardev socket,id=m,fd=29 -mon m,mode=control",
         "-chardev socket,id=m,fd=@user0 -mon m,mode=control",
         {.id = "m", .address = "fd:29", .kind = fd_connected, .fd = 29}},
        {"-chardev stdio,id=m,signal=off -mon m,mode=control",
         "-chardev socket,id=m,fd=@user0 -mon m,mode=control",
         {.id = "m", .address = "stdio", .kind = stdio}},
        {"-chardev socket,id=m,path=/run/q,server=on,wait=off,reconnect=0 -qmp chardev:m",
         "-chardev socket,id=m,fd=@user0 -qmp chardev:m",
         {.id = "m", .address = "unix:/run/q", .kind = unix_listen, .path = "/run/q"}},
    };
    for (const Taken& row : rows) {
        const auto made = plan(base + row.line);
        ASSERT_TRUE(made) << row.line << ": " << made.error().to_string();
        EXPECT_EQ(monitors_part(*made), base + row.becomes + " " + own) << row.line;
        ASSERT_EQ(made->monitors.size(), 1U) << row.line;
        const PlannedMonitor& m = made->monitors[0];
        EXPECT_EQ(m.id, row.monitor.id.empty() ? "pageferry.user0" : row.monitor.id) << row.line;
        EXPECT_EQ(m.address, row.monitor.address) << row.line;
        EXPECT_EQ(m.kind, row.monitor.kind) << row.line;
        EXPECT_EQ(m.path, row.monitor.path) << row.line;
        EXPECT_EQ(m.abstract, row.monitor.abstract) << row.line;
        EXPECT_EQ(m.tight, row.monitor.tight) << row.line;
        EXPECT_EQ(m.host, row.monitor.host) << row.line;
        EXPECT_EQ(m.port, row.monitor.port) << row.line;
        EXPECT_EQ(m.to, row.monitor.to) << row.line;
        EXPECT_EQ(m.ipv4, row.monitor.ipv4) << row.line;
        EXPECT_EQ(m.nodelay, row.monitor.nodelay) << row.line;
        EXPECT_EQ(m.fd, row.monitor.fd) << row.line;
        EXPECT_EQ(m.wait, row.monitor.wait) << row.line;
        EXPECT_EQ(m.pretty, row.monitor.pretty) << row.line;
    }
}

TEST(MonitorPlan, OtherMonitorsStayQemusOwn) {
    for (const std::string line : {"-monitor stdio", "-monitor none", "-mon chardev=m -chardev stdio,id=m", "-qmp null",
                                   "-mon m,mode=readline -chardev vc,id=m", "-chardev null,id=m -mon m,mode=control",
                                   "-serial mon:stdio", "-chardev pty,id=p -device isa-serial,chardev=p"}) {
        const auto made = plan(base + line);
        ASSERT_TRUE(made) << line << ": " << made.error().to_string();
        EXPECT_TRUE(made->monitors.empty()) << line;
        EXPECT_EQ(monitors_part(*made), base + line + " " + own) << line;
    }
}

TEST(MonitorPlan, SeveralMonitorsKeepTheirOrder) {
    const auto made = plan(base + "-qmp unix:/a,server=on,wait=off -monitor stdio -qmp unix:/b,server=on,wait=off");
    ASSERT_TRUE(made);
    ASSERT_EQ(made->monitors.size(), 2U);
    EXPECT_EQ(made->monitors[0].path, "/a");
    EXPECT_EQ(made->monitors[1].path, "/b");
    EXPECT_EQ(made->monitors[1].id, "pageferry.user1");
}

// QEMU gives a human monitor only to those who ask for none: our private one must not take it away.
TEST(MonitorPlan, TheDefaultHumanMonitorStays) {
    const std::vector<std::pair<std::string, std::string>> rows{
        {"-display none", " -monitor vc:80Cx24C"},
        {"-nographic", " -serial mon:stdio"},
        {"-nographic -serial file:/tmp/x", " -monitor stdio"},
        {"-nographic -device isa-serial,chardev=x", " -monitor stdio"},
        {"-nographic -nodefaults", ""},
        {"-nographic -serial mon:stdio", ""},
        {"-nographic -monitor none", ""},
        {"-nographic -qmp unix:/a,server=on,wait=off", ""},
    };
    for (const auto& [line, added] : rows) {
        const auto made = plan("qemu-system-x86_64 " + line);
        ASSERT_TRUE(made) << line;
        const std::string text = line_of(*made);
        const auto at = text.find("memory-backend=pc.ram") + 21;
        EXPECT_EQ(text.substr(at), added + " " + own) << line;
    }
}

TEST(MonitorPlan, WhatCannotBeServedIsRefused) {
    const std::vector<std::pair<std::string, std::string>> rows{
        {"-qmp pty", "not on pty"},
        {"-qmp pipe:/tmp/p", "not on pipe"},
        {"-qmp file:/tmp/p", "not on file"},
        {"-qmp mon:stdio", "not on mon"},
        {"-qmp telnet:127.0.0.1:4444,server", "not on telnet"},
        {"-qmp websocket:127.0.0.1:4444,server", "not on websocket"},
        {"-qmp tcp:127.0.0.1,server", "no port"},
        {"-qmp tcp:h:4,server=on,to=x", "not a port"},
        {"-qmp tcp:h:4,server=on,telnet=on", "telnet=on"},
        {"-qmp unix:/a,reconnect=5", "reconnect"},
        {"-qmp unix:/a,reconnect-ms=5", "reconnect-ms"},
        {"-qmp unix:/a,wait=on", "without server=on"},
        {"-chardev socket,id=m,port=4,host=h,server=on,tls-creds=t -mon m,mode=control", "tls-creds"},
        {"-chardev socket,id=m,path=/a,server=on,mux=on -mon m,mode=control", "mux=on"},
        {"-chardev stdio,id=m,mux=on -mon m,mode=control", "mux=on"},
        {"-chardev pty,id=m -mon m,mode=control", "not on pty"},
        {"-chardev socket,id=m,fd=mine,server=on -mon m,mode=control", "fd=mine"},
        {"-chardev socket,id=m,server=on -mon m,mode=control", "no path"},
        {"-mon m,mode=control", "no -chardev with id=m"},
        {"-qmp stdio -qmp stdio", "cannot share stdio"},
        {"-qmp stdio -daemonize", "no stdio with -daemonize"},
    };
    for (const auto& [line, reason] : rows) {
        const auto made = plan(base + line);
        ASSERT_FALSE(made) << line;
        EXPECT_EQ(made.error().code, ErrorCode::invalid_argument) << line;
        EXPECT_NE(made.error().to_string().find(reason), std::string::npos) << made.error().to_string();
        EXPECT_FALSE(made.error().remedy.empty() && line.find("share") == std::string::npos && line != "-qmp stdio -qmp stdio")
            << line;
    }
}

} // namespace
} // namespace pageferry::hypervisor::test
