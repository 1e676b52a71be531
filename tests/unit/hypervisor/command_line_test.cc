#include "tests/unit/hypervisor/fake_host.h"

#include <gtest/gtest.h>

namespace pageferry::hypervisor::test {
namespace {

TEST(CommandLine, WhatRunsNoGuestIsExecutedAsGiven) {
    for (const std::string line :
         {"-version", "--version", "-h", "-help", "-device help", "-device virtio-net-pci,help", "-machine help", "-M ?",
          "-cpu help", "-object memory-backend-file,help", "-machine none", "-M none -m 4G", "-netdev help",
          "-S -no-user-config -nodefaults -nographic -machine none,accel=kvm:tcg -qmp unix:/x,server=on,wait=off "
          "-pidfile /x.pid -daemonize",
          "-dump-vmstate /tmp/x", "-trace help", "-d help", "-accel help"}) {
        const auto made = plan("qemu-system-x86_64 " + line);
        ASSERT_TRUE(made) << line;
        EXPECT_TRUE(made->plain) << line;
        EXPECT_EQ(line_of(*made), "qemu-system-x86_64 " + line);
    }
}

TEST(CommandLine, AnOptionsValueThatOnlyLooksLikeAQuestionIsNone) {
    for (const std::string line : {"-name help", "-append help", "-kernel help", "-name none", "-serial file:help"}) {
        const auto made = plan("qemu-system-x86_64 " + line);
        ASSERT_TRUE(made) << line;
        EXPECT_FALSE(made->plain) << line;
    }
}

TEST(CommandLine, SwitchedOffIsExecutedAsGiven) {
    FakeHost host;
    host.off = true;
    const auto made = plan("qemu-system-x86_64 -m 1G -object memory-backend-ram,id=a,size=1G -qmp pty", host);
    ASSERT_TRUE(made);
    EXPECT_TRUE(made->plain);
}

TEST(CommandLine, NoBinaryIsRefused) {
    EXPECT_FALSE(plan_launch({}, FakeHost{}));
    EXPECT_FALSE(plan_launch(std::vector<std::string>{""}, FakeHost{}));
}

TEST(CommandLine, EverythingElseStaysInOrder) {
    const std::string line =
        "qemu-system-x86_64 -name guest=a,,b,debug-threads=on -nodefaults disk.img -drive file=/x,format=raw -pidfile /p "
        "-sandbox on -append -qmp --enable-kvm -S -monitor none -unheard-of x";
    const auto made = plan(line);
    ASSERT_TRUE(made);
    EXPECT_EQ(line_of(*made).find(line + " -object "), 0U) << line_of(*made);
    EXPECT_EQ(made->guest_name, "a,b");
    EXPECT_FALSE(made->autostart);
}

struct Incoming {
    const char* line;
    const char* begins;
    const char* uri;
    bool native;
    bool autostart;
    bool held; // -S is added
};

TEST(CommandLine, IncomingIsKeptForPageferry) {
    const std::vector<Incoming> rows{
        {"-incoming defer", "-incoming defer", "defer", false, true, true},
        {"-incoming tcp:0:4444", "-incoming defer", "tcp:0:4444", false, true, true},
        {"-incoming rdma:[::]:4444", "-incoming defer", "rdma:[::]:4444", false, true, true},
        {"-incoming unix:/run/m", "-incoming defer", "unix:/run/m", false, true, true},
        {"-incoming tcp:0:4444 -S", "-incoming defer -S", "tcp:0:4444", false, false, false},
        {"-S -incoming defer", "-S -incoming defer", "defer", false, false, false},
        {"-incoming fd:7", "-incoming fd:7", "fd:7", true, true, false},
        {"-incoming file:/x", "-incoming file:/x", "file:/x", true, true, false},
    };
    for (const Incoming& row : rows) {
        const auto made = plan(std::string{"qemu-system-x86_64 -nodefaults "} + row.line);
        ASSERT_TRUE(made) << row.line << made.error().to_string();
        const std::string text = line_of(*made);
        EXPECT_EQ(text.find(std::string{"qemu-system-x86_64 -nodefaults "} + row.begins + " -object"), 0U) << text;
        EXPECT_TRUE(made->incoming_given);
        EXPECT_EQ(made->incoming, row.uri);
        EXPECT_EQ(made->incoming_native, row.native);
        EXPECT_EQ(made->autostart, row.autostart);
        EXPECT_EQ(text.ends_with(" -S"), row.held) << text;
    }
    EXPECT_FALSE(plan("qemu-system-x86_64")->incoming_given);
}

TEST(CommandLine, AMalformedIncomingIsRefused) {
    for (const char* line :
         {"-incoming nonsense", "-incoming tcp:host", "-incoming tcp:h:99999", "-incoming {\"channel-type\":\"main\"}"}) {
        const auto made = plan(std::string{"qemu-system-x86_64 "} + line);
        ASSERT_FALSE(made) << line;
        EXPECT_NE(made.error().to_string().find("-incoming"), std::string::npos) << made.error().to_string();
        EXPECT_FALSE(made.error().remedy.empty()) << line;
    }
}

TEST(CommandLine, DaemonizeIsTheLaunchersWork) {
    const auto made = plan("qemu-system-x86_64 -nodefaults -daemonize -pidfile /p");
    ASSERT_TRUE(made);
    EXPECT_TRUE(made->daemonize);
    EXPECT_EQ(line_of(*made).find("qemu-system-x86_64 -nodefaults -pidfile /p -object"), 0U);
    EXPECT_FALSE(plan("qemu-system-x86_64 -daemonize -nographic"));
    EXPECT_FALSE(plan("qemu-system-x86_64 -daemonize -display curses"));
}

TEST(CommandLine, WritersPageferryCannotSeeAreNamed) {
    const std::vector<std::pair<std::string, std::vector<std::string>>> rows{
        {"-device vfio-pci,host=01:00.0,id=hostdev0", {"vfio-pci (hostdev0)"}},
        {R"(-device {"driver":"vfio-pci-nohotplug","id":"g"})", {"vfio-pci-nohotplug (g)"}},
        {"-device vhost-user-fs-pci,chardev=c", {"vhost-user-fs-pci"}},
        {"-device ivshmem-doorbell,vectors=1", {"ivshmem-doorbell"}},
        {"-netdev vhost-user,id=n,chardev=c -netdev vhost-vdpa,id=v", {"netdev vhost-user (n)", "netdev vhost-vdpa (v)"}},
        {"-nic vhost-user,chardev=c", {"netdev vhost-user"}},
        {"-device scsi-block,drive=d,id=s", {"scsi-block (s)"}},
        {"-device vhost-scsi-pci,wwpn=naa.1", {"vhost-scsi-pci"}},
        {"-drive file=d.img,cache=none,id=d -device scsi-hd,drive=d", {}},
        {R"(-blockdev {"driver":"raw","node-name":"b","file":{"driver":"nvme","device":"0000:01:00.0"}})", {"blockdev nvme (b)"}},
        {"-drive file=nvme://0000:44:00.0/1,if=none,id=d", {"drive nvme://0000:44:00.0/1 (d)"}},
        {"-device virtio-net-pci,netdev=n -netdev tap,id=n,vhost=on -device nvme,serial=1 -blockdev driver=file,filename=nvme",
         {}},
    };
    for (const auto& [line, names] : rows) {
        const auto made = plan("qemu-system-x86_64 " + line);
        ASSERT_TRUE(made) << line;
        EXPECT_EQ(made->untracked_writers, names) << line;
    }
}

TEST(CommandLine, DevicesThatGiveMemoryBackAreNamed) {
    const std::vector<std::pair<std::string, std::vector<std::string>>> rows{
        {"-device virtio-mem-pci,memdev=m,id=vm0", {"virtio-mem-pci (vm0)"}},
        {"-device virtio-balloon-pci,id=b,free-page-reporting=on", {"virtio-balloon-pci (b) by free page reporting"}},
        {R"(-device {"driver":"virtio-balloon-ccw","free-page-reporting":true})", {"virtio-balloon-ccw by free page reporting"}},
        {"-device virtio-balloon-pci,id=b,free-page-reporting=off -device virtio-balloon-pci", {}},
        {"-device virtio-blk-pci,drive=d -netdev user,id=n", {}},
    };
    for (const auto& [line, names] : rows) {
        const auto made = plan("qemu-system-x86_64 " + line);
        ASSERT_TRUE(made) << line;
        EXPECT_EQ(made->discarders, names) << line;
        EXPECT_TRUE(made->untracked_writers.empty()) << line;
    }
    FakeHost host;
    host.files["/c"] = "[device \"b\"]\n  driver = \"virtio-balloon\"\n  free-page-reporting = \"on\"\n";
    const auto made = plan("qemu-system-x86_64 -readconfig /c", host);
    ASSERT_TRUE(made) << made.error().to_string();
    EXPECT_EQ(made->discarders, std::vector<std::string>{"virtio-balloon (b) by free page reporting"});
}

TEST(CommandLine, ConfigurationFilesAreReadForWhatMustNotBeInThem) {
    FakeHost host;
    host.files["/ok"] =
        "# comment\n[machine]\n  type = \"q35\"\n[device \"v\"]\n  driver = \"vfio-pci\"\n[drive]\n file = \"a=b\"\n";
    host.files["/m"] = "[memory]\n  size = \"1024\"\n";
    host.files["/o"] = "[object \"a\"]\n  qom-type = \"memory-backend-ram\"\n";
    host.files["/q"] = "[mon \"q\"]\n  chardev = \"c\"\n  mode = \"control\"\n";
    const auto made = plan("qemu-system-x86_64 -readconfig /ok", host);
    ASSERT_TRUE(made) << made.error().to_string();
    EXPECT_EQ(made->untracked_writers, std::vector<std::string>{"vfio-pci (v)"});
    for (const auto& [path, remedy] : {std::pair{"/m", "as -m"}, std::pair{"/o", "as -object"}, std::pair{"/q", "as -mon"}}) {
        const auto refused = plan(std::string{"qemu-system-x86_64 -readconfig "} + path, host);
        ASSERT_FALSE(refused) << path;
        EXPECT_NE(refused.error().remedy.find(remedy), std::string::npos) << refused.error().to_string();
    }
    EXPECT_FALSE(plan("qemu-system-x86_64 -readconfig /absent", host));
}

TEST(CommandLine, RenderFillsInDescriptors) {
    const auto made = plan("qemu-system-x86_64 -nodefaults -m 1G -qmp unix:/a,server=on,wait=off");
    ASSERT_TRUE(made);
    const auto words =
        render(*made, [](Slot slot, std::size_t index) { return static_cast<int>(slot) * 10 + static_cast<int>(index); });
    EXPECT_EQ(words[5], "socket,id=pageferry.user0,fd=30");
    EXPECT_EQ(words[9], "memory-backend-file,id=pc.ram,size=1073741824,mem-path=/proc/self/fd/"
                        "10,align=2M,share=on,x-use-canonical-path-for-ramblock-id=off");
    EXPECT_EQ(words[13], "socket,id=pageferry.qmp,fd=20");
}

} // namespace
} // namespace pageferry::hypervisor::test
