#include "cli/probe_sections.h"

#include "cli/probe_host.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace pageferry::cli {
namespace {

using hypervisor::KernelFeatures;
using hypervisor::UserfaultfdRights;
using memory::UserfaultfdWay;
using Verdict = Finding::Verdict;

const Finding& line(const Section& section, const std::string& what) {
    const auto found = std::ranges::find(section.findings, what, &Finding::what);
    static const Finding none;
    EXPECT_NE(found, section.findings.end()) << what;
    return found == section.findings.end() ? none : *found;
}

KernelFeatures good_kernel() {
    return KernelFeatures{.release = "6.12.9", .machine = "x86_64"};
}

std::unexpected<Error> lacks(const char* reason) {
    return std::unexpected(make_error(ErrorCode::unsupported, "probe", "kernel", reason));
}

TEST(ProbeKernel, AllIsThere) {
    const Section section = kernel_section(good_kernel(), UserfaultfdRights{.own = {.way = UserfaultfdWay::device}});
    EXPECT_EQ(line(section, "release").value, "6.12.9 x86_64");
    for (const Finding& one : section.findings) {
        EXPECT_NE(one.verdict, Verdict::no) << one.what;
    }
}

TEST(ProbeKernel, OneWayOfDirtyTrackingIsEnough) {
    KernelFeatures kernel = good_kernel();
    kernel.soft_dirty = lacks("not built in");
    UserfaultfdRights rights;
    const Section one = kernel_section(kernel, rights);
    EXPECT_EQ(line(one, "dirty tracking, soft-dirty").verdict, Verdict::no);
    EXPECT_NE(line(one, "dirty tracking, soft-dirty").remedy.find("not needed"), std::string::npos);
    kernel.write_protect = lacks("too old");
    const Section none = kernel_section(kernel, rights);
    EXPECT_EQ(line(none, "dirty tracking, write-protect").reason, "too old");
    EXPECT_NE(line(none, "dirty tracking, write-protect").remedy.find("6.7"), std::string::npos);
}

TEST(ProbeKernel, NoHugePageToTryItOnIsNoFault) {
    KernelFeatures kernel = good_kernel();
    kernel.minor_huge = std::unexpected(make_error(ErrorCode::resources, "map", "memory", "none is free"));
    const Section section = kernel_section(kernel, UserfaultfdRights{});
    EXPECT_EQ(line(section, "minor faults, huge pages").verdict, Verdict::ok);
    EXPECT_NE(line(section, "minor faults, huge pages").value.find("not tried"), std::string::npos);
}

TEST(ProbeKernel, WhoMayOpenAUserfaultfd) {
    const Section weak =
        kernel_section(good_kernel(), UserfaultfdRights{.own = {.way = UserfaultfdWay::user_mode_only, .error = EPERM},
                                                        .unprivileged = false,
                                                        .device_rights = "root:kvm 0660"});
    EXPECT_EQ(line(weak, "userfaultfd, this user").verdict, Verdict::no);
    EXPECT_NE(line(weak, "userfaultfd, this user").remedy.find("/dev/userfaultfd"), std::string::npos);
    EXPECT_EQ(line(weak, "userfaultfd, who may").value,
              "root (vm.unprivileged_userfaultfd=0), and who may open /dev/userfaultfd (root:kvm 0660)");
    const Section none = kernel_section(good_kernel(), UserfaultfdRights{.own = {.way = UserfaultfdWay::none, .error = ENOSYS}});
    EXPECT_NE(line(none, "userfaultfd, this user").reason.find("userfaultfd: "), std::string::npos);
}

constexpr std::uint64_t gib = std::uint64_t{1} << 30;

TEST(ProbeMemory, WhatTheLimitAllows) {
    const Section section = memory_section(Memlock{.soft = 8UL << 20U, .hard = 4 * gib, .exempt = false, .used = 0}, {});
    EXPECT_EQ(line(section, "memlock, soft limit").bytes, 8UL << 20U);
    EXPECT_EQ(line(section, "memlock, guest RAM by rdma").verdict, Verdict::ok);
    EXPECT_EQ(line(section, "memlock, guest RAM by rdma").bytes, 4 * gib - memlock_overhead) << "raised to the hard limit";
}

TEST(ProbeMemory, TooLittleHasARemedy) {
    const Section section = memory_section(Memlock{.soft = 65536, .hard = 65536, .exempt = false, .used = 0}, {});
    const Finding& ram = line(section, "memlock, guest RAM by rdma");
    EXPECT_EQ(ram.verdict, Verdict::no);
    EXPECT_EQ(ram.bytes, 0U);
    EXPECT_NE(ram.remedy.find("ulimit -l"), std::string::npos);
}

TEST(ProbeMemory, WithTheCapabilityNoLimitCounts) {
    const Section section = memory_section(Memlock{.soft = 65536, .hard = 65536, .exempt = true, .used = 0}, {});
    EXPECT_EQ(line(section, "memlock, guest RAM by rdma").value, "unlimited");
}

TEST(ProbeMemory, HugePages) {
    const Section section = memory_section(Memlock{}, {{.page_size = 2UL << 20U, .total = 10, .free = 4}});
    EXPECT_EQ(line(section, "huge pages of 2.00 MiB").value, "4 free of 10");
    EXPECT_EQ(line(section, "huge pages of 2.00 MiB").bytes, 8UL << 20U);
}

TEST(ProbeQemu, Lines) {
    const Section section =
        qemu_section({{.file = "/usr/bin/qemu-system-x86_64", .version = "7.2.22", .served = {}},
                      {.file = "/opt/qemu-system-arm",
                       .version = "",
                       .served = std::unexpected(make_error(ErrorCode::unsupported, "serve", "x", "why", "do"))}});
    EXPECT_EQ(line(section, "/usr/bin/qemu-system-x86_64").verdict, Verdict::ok);
    EXPECT_EQ(line(section, "/opt/qemu-system-arm").remedy, "do");
    EXPECT_EQ(qemu_section({}).findings.at(0).verdict, Verdict::no);
}

TEST(ProbeQemu, Version) {
    EXPECT_EQ(hypervisor::qemu_version("QEMU emulator version 7.2.22 (Debian 1:7.2)\nCopyright"), "7.2.22");
    EXPECT_EQ(hypervisor::qemu_version("warning\nQEMU emulator version 11.1.0"), "11.1.0");
    EXPECT_EQ(hypervisor::qemu_version("hello"), "");
}

TransportFound found(Result<std::string> inspected) {
    return TransportFound{.scheme = "xyz", .file = "/x.so", .description = "", .usable = {}, .inspected = std::move(inspected)};
}

TEST(ProbeTransports, APluginsLinesAndDetails) {
    const auto sections = transport_sections({found(
        R"({"findings": [{"what": "dev0", "value": "v", "ok": false, "reason": "r", "remedy": "m"}, {"what": "dev1", "value": "w"}, 7],
            "devices": [1]})")});
    ASSERT_EQ(sections.size(), 2U);
    EXPECT_EQ(line(sections[0], "xyz").verdict, Verdict::ok);
    EXPECT_EQ(sections[1].title, "xyz");
    ASSERT_EQ(sections[1].findings.size(), 2U);
    EXPECT_EQ(line(sections[1], "dev0").reason, "r");
    EXPECT_EQ(line(sections[1], "dev1").verdict, Verdict::none);
    EXPECT_EQ(sections[1].details, R"({"devices":[1]})");
}

TEST(ProbeTransports, NothingToTellAndNonsense) {
    EXPECT_EQ(transport_sections({found("")}).size(), 1U);
    const auto sections = transport_sections({found("[1, 2"), found(R"({"findings": "none"})")});
    ASSERT_EQ(sections.size(), 3U);
    EXPECT_EQ(sections[1].findings.at(0).verdict, Verdict::no);
    EXPECT_TRUE(sections[2].findings.empty());
}

TEST(ProbeHost, ThisOne) {
    const auto sections = probe_host();
    ASSERT_GE(sections.size(), 4U);
    EXPECT_EQ(sections[0].title, "kernel");
    EXPECT_FALSE(line(sections[0], "release").value.empty());
    EXPECT_EQ(sections[3].title, "transports");
    for (const char* scheme : {"rdma", "tcp", "unix"}) {
        const Finding& one = line(sections[3], scheme);
        EXPECT_TRUE(one.verdict == Verdict::ok || !one.remedy.empty()) << scheme << ": " << one.reason;
    }
    for (const Section& section : sections) {
        for (const Finding& one : section.findings) {
            EXPECT_TRUE(one.verdict != Verdict::no || !one.reason.empty()) << one.what;
        }
    }
}

} // namespace
} // namespace pageferry::cli
