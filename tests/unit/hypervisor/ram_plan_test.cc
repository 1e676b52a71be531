#include "tests/unit/hypervisor/fake_host.h"

#include <gtest/gtest.h>

namespace pageferry::hypervisor::test {
namespace {

struct Added {
    const char* line;
    const char* id;
    std::uint64_t size;
};

TEST(RamPlan, PlainMemoryGetsASharedFileUnderTheUsualName) {
    const std::vector<Added> rows{
        {"qemu-system-x86_64 -m 4G", "pc.ram", 4 * gib},
        {"qemu-system-x86_64 -m 4096", "pc.ram", 4 * gib},
        {"qemu-system-x86_64 -m size=1.5G,slots=2,maxmem=8G", "pc.ram", 1536 * mib},
        {"qemu-system-x86_64 -m slots=2,maxmem=8G", "pc.ram", 128 * mib},
        {"qemu-system-x86_64 -m 512 -m slots=2,maxmem=8G", "pc.ram", 512 * mib},
        {"qemu-system-x86_64 -m 512 -m 1024", "pc.ram", gib},
        {"qemu-system-x86_64", "pc.ram", 128 * mib},
        {"qemu-system-x86_64 -m 0", "pc.ram", 128 * mib},
        {"qemu-system-x86_64 -m 4097K", "pc.ram", 4104 * 1024},
        {"qemu-system-x86_64 -machine pc,memory.size=268435456", "pc.ram", 256 * mib},
        {"/usr/libexec/qemu-kvm -M pc-i440fx-7.2", "pc.ram", 128 * mib},
        {"qemu-system-x86_64 -M microvm,acpi=off", "microvm.ram", 128 * mib},
        {"/usr/bin/qemu-system-x86_64-microvm -M microvm", "microvm.ram", 128 * mib},
        {"qemu-system-aarch64 -M virt -m 1G", "mach-virt.ram", gib},
        {"qemu-system-arm -machine virt-8.0", "mach-virt.ram", 128 * mib},
        {"qemu-system-riscv64 -M virt", "riscv_virt_board.ram", 128 * mib},
        {"qemu-system-s390x -m 2G", "s390.ram", 2 * gib},
        {"qemu-system-ppc64 -M pseries-7.2", "ppc_spapr.ram", 512 * mib},
        {"qemu-system-avr -M uno -m 1", "pageferry.ram", mib},
    };
    for (const Added& row : rows) {
        const auto made = plan(row.line);
        ASSERT_TRUE(made) << row.line << ": " << made.error().to_string();
        ASSERT_EQ(made->ram.size(), 1U) << row.line;
        EXPECT_TRUE(made->ram[0].ours) << row.line;
        EXPECT_EQ(made->ram[0].backend.id, row.id) << row.line;
        EXPECT_EQ(made->ram[0].backend.size, row.size) << row.line;
        const std::string expected = std::string{"-object memory-backend-file,id="} + row.id +
                                     ",size=" + std::to_string(row.size) +
                                     ",mem-path=/proc/self/fd/@ram0,align=2M,share=on,x-use-canonical-path-for-ramblock-id=off" +
                                     " -machine memory-backend=" + row.id;
        EXPECT_NE(line_of(*made).find(expected), std::string::npos) << line_of(*made);
    }
}

TEST(RamPlan, MemPathBecomesTheBackendsPath) {
    const auto made = plan("qemu-system-x86_64 -m 1G -mem-path /dev/hugepages -mem-prealloc -nodefaults");
    ASSERT_TRUE(made) << made.error().to_string();
    EXPECT_FALSE(made->ram.at(0).ours);
    EXPECT_TRUE(made->ram[0].backend.directory);
    EXPECT_EQ(made->ram[0].backend.inode, 0U);
    EXPECT_EQ(line_of(*made).find(
                  "qemu-system-x86_64 -m 1G -mem-prealloc -nodefaults -object memory-backend-file,id=pc.ram,size=1073741824,"
                  "mem-path=/dev/hugepages,share=on"),
              0U)
        << line_of(*made);
}

TEST(RamPlan, GoodBackendsStayAsTheyAre) {
    const std::vector<std::pair<std::string, std::size_t>> rows{
        {"-object memory-backend-file,id=a,size=1G,mem-path=/dev/shm/vm,share=on -machine q35,memory-backend=a", 1},
        {"-machine q35 -M memory-backend=a -object memory-backend-file,id=a,size=1G,mem-path=/dev/shm,share=yes", 1},
        {R"(-object {"qom-type":"memory-backend-file","id":"a","size":1073741824,"mem-path":"/dev/shm/x","share":true} -M memory-backend=a)",
         1},
        {"-object memory-backend-file,id=a,size=1G,mem-path=/dev/hugepages/a,share=on -object "
         "memory-backend-file,id=b,size=1G,mem-path=/dev/hugepages/b,share=on -numa node,memdev=a -numa node,memdev=b",
         2},
        {"-object memory-backend-file,id=a,size=100G,mem-path=/mnt/big/a,share=on -machine memory-backend=a",
         1}, // tmpfs without limit
        {"-object memory-backend-file,id=a,size=8G,mem-path=/dev/shm/full,share=on -machine memory-backend=a",
         1}, // 4 GiB are there
        {"-object memory-backend-file,id=a,size=1G,mem-path=/dev/shm/vm,share=on -machine memory-backend=a -m 1G", 1},
    };
    for (const auto& [line, backends] : rows) {
        const auto made = plan("qemu-system-x86_64 -nodefaults " + line);
        ASSERT_TRUE(made) << line << ": " << made.error().to_string();
        EXPECT_EQ(made->ram.size(), backends) << line;
        EXPECT_EQ(line_of(*made).find("qemu-system-x86_64 -nodefaults " + line + " -chardev"), 0U) << line_of(*made);
    }
}

TEST(RamPlan, BackendsWithoutAFileGetOneOfOurs) {
    struct Row {
        const char* given;
        const char* becomes;
    };
    const std::vector<Row> rows{
        {.given = "memory-backend-ram,id=a,size=1G",
         .becomes = "memory-backend-file,id=a,size=1G,x-use-canonical-path-for-ramblock-id=off,share=on,align=2097152,"
                    "mem-path=/proc/self/fd/@ram0"},
        {.given = "memory-backend-ram,id=a,size=1G,share=off,prealloc=on,host-nodes=0,host-nodes=2-3,policy=bind,"
                  "x-use-canonical-path-for-ramblock-id=on",
         .becomes = "memory-backend-file,id=a,size=1G,share=on,prealloc=on,host-nodes=0,host-nodes=2-3,policy=bind,"
                    "x-use-canonical-path-for-ramblock-id=on,align=2097152,mem-path=/proc/self/fd/@ram0"},
        {.given = "memory-backend-memfd,id=a,size=1G,hugetlb=off,seal=off,reserve=off",
         .becomes = "memory-backend-file,id=a,size=1G,reserve=off,share=on,align=2097152,mem-path=/proc/self/fd/@ram0"},
        {.given = R"({"qom-type":"memory-backend-ram","id":"pc.ram","size":1073741824})",
         .becomes =
             R"({"qom-type":"memory-backend-file","id":"pc.ram","size":1073741824,)"
             R"("x-use-canonical-path-for-ramblock-id":false,"share":true,"align":2097152,"mem-path":"/proc/self/fd/@ram0"})"},
        {.given = R"({"qom-type":"memory-backend-memfd","id":"a","hugetlb":false,"share":false,"size":1048576,)"
                  R"("host-nodes":[0,1],"policy":"interleave","prealloc-threads":4,"seal":true})",
         .becomes = R"({"qom-type":"memory-backend-file","id":"a","share":true,"size":1048576,)"
                    R"("host-nodes":[0,1],"policy":"interleave","prealloc-threads":4,"align":2097152,)"
                    R"("mem-path":"/proc/self/fd/@ram0"})"},
    };
    for (const Row& row : rows) {
        const auto made = plan(std::string{"qemu-system-x86_64 -nodefaults -object "} + row.given + " -machine memory-backend=a");
        ASSERT_TRUE(made) << row.given << ": " << made.error().to_string();
        ASSERT_EQ(made->ram.size(), 1U);
        EXPECT_TRUE(made->ram[0].ours);
        EXPECT_EQ(line_of(*made).find(std::string{"qemu-system-x86_64 -nodefaults -object "} + row.becomes + " -machine"), 0U)
            << line_of(*made);
    }
}

TEST(RamPlan, EachBackendOfANumaGuestHasAFileOfItsOwn) {
    const auto made =
        plan(R"(qemu-system-x86_64 -nodefaults -object {"qom-type":"memory-backend-ram","id":"ram-node0","size":536870912})"
             R"( -numa node,nodeid=0,memdev=ram-node0)"
             R"( -object memory-backend-file,id=f,size=1G,mem-path=/dev/shm,share=on -numa node,memdev=f)"
             R"( -object memory-backend-memfd,id=ram-node2,size=1000001 -numa node,memdev=ram-node2)");
    ASSERT_TRUE(made) << made.error().to_string();
    ASSERT_EQ(made->ram.size(), 3U);
    EXPECT_EQ(made->ram[0].backend.id, "ram-node0");
    EXPECT_EQ(made->ram[0].backend.size, 512 * mib);
    EXPECT_TRUE(made->ram[0].ours && !made->ram[1].ours && made->ram[2].ours);
    EXPECT_EQ(made->ram[2].backend.size, 1003520U); // whole pages
    EXPECT_NE(line_of(*made).find("fd/@ram0\"}"), std::string::npos) << line_of(*made);
    EXPECT_NE(line_of(*made).find("fd/@ram2"), std::string::npos) << line_of(*made);
}

TEST(RamPlan, ADimmsBackendIsBesideTheMainOne) {
    const auto made =
        plan("qemu-system-x86_64 -m 1G,slots=1,maxmem=2G -object memory-backend-file,id=d,size=1G,mem-path=/dev/shm,share=on "
             "-device pc-dimm,memdev=d");
    ASSERT_TRUE(made);
    ASSERT_EQ(made->ram.size(), 2U);
    EXPECT_EQ(made->ram[0].backend.id, "d");
    EXPECT_EQ(made->ram[1].backend.id, "pc.ram");
    EXPECT_NE(line_of(*made).find("mem-path=/proc/self/fd/@ram1,"), std::string::npos);
}

TEST(RamPlan, NumaWithoutMemoryDevicesIsLeftToQemu) {
    const auto made = plan("qemu-system-x86_64 -M pc-i440fx-5.0 -m 1G -numa node,mem=512M -numa node,mem=512M");
    ASSERT_TRUE(made);
    EXPECT_TRUE(made->ram.at(0).ours);
}

struct Refused {
    const char* line;
    const char* reason;
    const char* remedy;
};

TEST(RamPlan, BackendsThatCannotWorkAreRefusedWithTheLineToUse) {
    const std::vector<Refused> rows{
        {"-object memory-backend-memfd,id=a,size=1G,hugetlb=on,hugetlbsize=2M", "no file",
         "use -object memory-backend-file,id=a,size=1G,mem-path=/dev/hugepages,share=on"},
        {R"(-object {"qom-type":"memory-backend-memfd","id":"a","size":1024,"hugetlb":true})", "no file",
         "use -object memory-backend-file,id=a,size=1024,mem-path=/dev/hugepages,share=on"},
        {"-object memory-backend-ram,id=a", "no size", "size=4G"},
        {"-object memory-backend-ram,id=a,size=0", "no size", "size=4G"},
        {"-object memory-backend-ram,id=a,size=some", "no size", "size=4G"},
        {"-object memory-backend-ram,id=a,size=1G,mem-path=/dev/shm", "has no property 'mem-path'", "memory-backend-file"},
        {R"(-object {"qom-type":"memory-backend-memfd","id":"a","size":1024,"pmem":true})", "has no property 'pmem'",
         "memory-backend-file"},
        {"-object memory-backend-file,id=a,size=1G,mem-path=/dev/shm/x", "private",
         "use -object memory-backend-file,id=a,size=1G,mem-path=/dev/shm/x,share=on"},
        {"-object memory-backend-file,id=a,size=1G,mem-path=/dev/shm/x,share=off,prealloc=on", "private",
         "use -object memory-backend-file,id=a,size=1G,mem-path=/dev/shm/x,share=on,prealloc=on"},
        {"-object memory-backend-file,id=a,size=1G,mem-path=/data/x,share=on", "neither tmpfs nor hugetlbfs",
         "use -object memory-backend-file,id=a,size=1G,mem-path=/dev/shm,share=on"},
        {"-object memory-backend-file,id=a,size=7G,mem-path=/dev/shm/x,share=on",
         "/dev/shm has 6.0 GiB free of 8.0 GiB, and 7.0 GiB are needed", "mount -o remount,size=... /dev/shm"},
        {"-object memory-backend-file,id=a,size=4G,mem-path=/dev/shm/x,share=on -object "
         "memory-backend-file,id=b,size=4G,mem-path=/dev/shm/y,share=on",
         "8.0 GiB are needed", "remount"},
        {"-object memory-backend-file,id=a,size=3G,mem-path=/dev/hugepages,share=on", "/dev/hugepages has 2.0 GiB free",
         "nr_hugepages"},
        {"-object memory-backend-file,id=a,size=3M,mem-path=/dev/hugepages,share=on", "no multiple of the 2.0 MiB pages",
         "round"},
        {"-object memory-backend-file,id=a,mem-path=/dev/shm,share=on", "no size", "size=SIZE"},
        {"-object memory-backend-file,id=a,size=1G,share=on", "no mem-path", "mem-path"},
        {"-object memory-backend-file,id=a,size=1G,mem-path=/nowhere/x,share=on", "No such file", ""},
        {"-object {\"qom-type\":", "not a JSON object", ""},
        {"-mem-path /data", "neither tmpfs nor hugetlbfs", "-mem-path /dev/shm"},
        {"-mem-path /dev/shm -m 7G", "6.0 GiB free", "remount"},
        {"-m lots", "'lots' is not a size", "-m 4G"},
        {"-m 16E", "'16E' is not a size", "-m 4G"},
        {"-accel xen", "Xen", ""},
    };
    for (const Refused& row : rows) {
        const auto made = plan(std::string{"qemu-system-x86_64 "} + row.line);
        ASSERT_FALSE(made) << row.line;
        const std::string text = made.error().to_string();
        EXPECT_NE(text.find(row.reason), std::string::npos) << text;
        EXPECT_NE(made.error().remedy.find(row.remedy), std::string::npos) << text;
    }
}

TEST(RamPlan, WhatIsAdvisedIsAccepted) {
    for (const char* line :
         {"-object memory-backend-file,id=a,size=1G,mem-path=/dev/shm", "-object memory-backend-memfd,id=a,size=1G,hugetlb=on",
          "-object memory-backend-file,id=a,size=1G,mem-path=/data/x,share=on"}) {
        const auto refused = plan(std::string{"qemu-system-x86_64 -M memory-backend=a "} + line);
        ASSERT_FALSE(refused);
        const std::string advice = refused.error().remedy.substr(4); // after "use "
        EXPECT_TRUE(plan("qemu-system-x86_64 -M memory-backend=a " + advice)) << advice;
    }
}

} // namespace
} // namespace pageferry::hypervisor::test
