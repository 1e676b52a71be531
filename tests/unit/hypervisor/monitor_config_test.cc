#include "hypervisor/qemu/monitor_config.h"

#include <gtest/gtest.h>

namespace pageferry::hypervisor {
namespace {

MonitorConfig example() {
    MonitorConfig config{
        .qemu_pid = 4711, .qemu_pidfd = 3, .qmp_fd = 4, .agent_fd = 5, .ready_fd = 6, .qemu_binary = "qemu-system-x86_64"};
    config.user_monitors.push_back({.id = "charmonitor", .address = "fd:9", .listen_fd = 9, .backend_fd = 10, .pretty = true});
    config.user_monitors.back().more_listen_fds = {11, 12};
    config.incoming_given = true;
    config.incoming = "rdma:[::]:4444";
    config.autostart = false;
    config.ram.push_back({.id = "pc.ram", .size = 1ULL << 40, .mem_path = "/dev/shm/\"x\"", .device = UINT64_MAX, .inode = 7});
    config.untracked_writers = {"vfio-pci (hostdev0)"};
    config.discarders = {"virtio-mem-pci (vm0)"};
    config.log = "none";
    config.parameters = R"({"x-pageferry-rdma":"required"})";
    config.settings_file = "/etc/pageferry/qemu.json";
    return config;
}

TEST(MonitorConfig, SurvivesTheWay) {
    const auto read = MonitorConfig::from_json(example().to_json());
    ASSERT_TRUE(read) << read.error().to_string();
    EXPECT_EQ(*read, example());
}

TEST(MonitorConfig, AnyBytesInAPathAreWritten) {
    MonitorConfig config = example();
    config.ram[0].mem_path = "/dev/shm/\xff";
    EXPECT_TRUE(MonitorConfig::from_json(config.to_json()));
}

TEST(MonitorConfig, WhatIsNoConfigurationIsRefused) {
    for (const char* text : {"", "{", "[]", "{}", "null", R"({"qemu_pid":"x"})"}) {
        const auto read = MonitorConfig::from_json(text);
        ASSERT_FALSE(read) << text;
        EXPECT_EQ(read.error().code, ErrorCode::protocol);
    }
}

} // namespace
} // namespace pageferry::hypervisor
