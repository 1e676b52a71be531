// Guest RAM as the agent tells of it: real files with real numbers, and where tracking ends, the kernel's userfaultfd.
#include "hypervisor/monitor_process/guest_ram.h"

#include <gtest/gtest.h>

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <optional>
#include <string>

namespace pageferry::hypervisor {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t page = 4096;
constexpr std::uint64_t mib = 1024UL * 1024;

std::size_t open_descriptors() {
    const fs::directory_iterator all{"/proc/self/fd"};
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

struct stat status_of(int fd) {
    struct stat status{};
    EXPECT_EQ(::fstat(fd, &status), 0);
    return status;
}

Fd make_file(const char* name = "guest-ram-test") {
    return Fd{::memfd_create(name, MFD_CLOEXEC)};
}

// One mapping of the file, as the agent would tell of it.
AgentMapping mapping_of(const Fd& file, std::uint64_t address, std::uint64_t length, std::string path = "/memfd:x (deleted)") {
    const struct stat status = status_of(file.get());
    return {.address = address,
            .length = length,
            .file_offset = 0,
            .device = status.st_dev,
            .inode = status.st_ino,
            .page_size = page,
            .file_system = 0,
            .path = std::move(path),
            .fd = file.duplicate(),
            .error = 0};
}

RamBackend backend_of(const Fd& file, std::string id, std::uint64_t size) {
    const struct stat status = status_of(file.get());
    return {.id = std::move(id),
            .size = size,
            .mem_path = "/proc/self/fd/nothing",
            .directory = false,
            .device = status.st_dev,
            .inode = status.st_ino};
}

template <class... Mappings>
Result<std::vector<GuestRamBlock>> find(const std::vector<RamBackend>& backends, Mappings... mappings) {
    std::vector<AgentMapping> all;
    (all.push_back(std::move(mappings)), ...);
    return find_guest_ram(backends, std::move(all));
}

void expect_file(const GuestRamBlock& block, const Fd& file) {
    EXPECT_EQ(status_of(block.file.get()).st_ino, status_of(file.get()).st_ino) << block.info.name;
    EXPECT_NE(::fcntl(block.file.get(), F_GETFD) & FD_CLOEXEC, 0) << block.info.name;
}

// A mapping of these halves, at two places in a row.
std::pair<AgentMapping, AgentMapping> halves_of(const Fd& file) {
    AgentMapping first = mapping_of(file, 0x10000000, mib);
    AgentMapping second = mapping_of(file, 0x10000000 + mib, mib);
    second.file_offset = mib;
    return {std::move(first), std::move(second)};
}

TEST(FindGuestRam, KnowsTheFileByItsNumbers) {
    const Fd other = make_file();
    const Fd file = make_file();
    AgentMapping mapping = mapping_of(file, 0x7f0000000000, 2 * mib);
    mapping.file_offset = 4 * mib;
    mapping.page_size = 2 * mib;
    const auto blocks = find({backend_of(file, "pc.ram", 2 * mib)}, mapping_of(other, 0x10000, 2 * mib), std::move(mapping));
    ASSERT_TRUE(blocks) << blocks.error().to_string();
    ASSERT_EQ(blocks->size(), 1U);
    const GuestRamBlock& block = blocks->front();
    EXPECT_EQ(block.info.name, "pc.ram");
    EXPECT_EQ(block.info.length, 2 * mib);
    EXPECT_EQ(block.info.page_size, 2 * mib);
    EXPECT_EQ(block.info.file_offset, 4 * mib);
    EXPECT_EQ(block.info.guest_address, 0x7f0000000000U);
    expect_file(block, file);
}

TEST(FindGuestRam, TheSameInodeOnAnotherDeviceIsAnotherFile) {
    const Fd file = make_file();
    AgentMapping mapping = mapping_of(file, 0x10000, mib);
    ++mapping.device;
    EXPECT_FALSE(find({backend_of(file, "pc.ram", mib)}, std::move(mapping)));
}

TEST(FindGuestRam, KnowsTheFileByThePathThatLeadsToIt) {
    const Fd file = make_file();
    std::string pattern = (fs::path{testing::TempDir()} / "pageferry-guest-ram-XXXXXX").string();
    const Fd named{::mkstemp(pattern.data())};
    ASSERT_TRUE(named);
    const auto blocks = find({{.id = "b", .size = mib, .mem_path = "/proc/self/fd/" + std::to_string(file.get())},
                              {.id = "a", .size = page, .mem_path = pattern}},
                             mapping_of(file, 0x200000, mib), mapping_of(named, 0x400000, page));
    // The path is looked up when it is asked for: now there is nothing at its end.
    ASSERT_EQ(::unlink(pattern.c_str()), 0);
    const auto gone = find({{.id = "a", .size = page, .mem_path = pattern}}, mapping_of(named, 0x400000, page));
    ASSERT_TRUE(blocks) << blocks.error().to_string();
    ASSERT_EQ(blocks->size(), 2U);
    expect_file(blocks->at(0), named);
    expect_file(blocks->at(1), file);
    ASSERT_FALSE(gone);
    EXPECT_EQ(gone.error().code, ErrorCode::unsupported);
}

TEST(FindGuestRam, KnowsQemusFileInADirectoryByItsName) {
    const Fd one = make_file();
    const Fd two = make_file();
    const Fd other = make_file();
    const std::vector<RamBackend> backends{{.id = "pc.ram", .size = mib, .mem_path = "/dev/shm", .directory = true},
                                           {.id = "/objects/m1", .size = mib, .mem_path = "/dev/shm", .directory = true}};
    const auto blocks =
        find(backends, mapping_of(other, 0x100000, mib, "/dev/shm/qemu_back_mem.pc.Xb1Yc2 (deleted)"),
             mapping_of(other, 0x200000, mib, "/dev/shm/qemu_back_mem.pc.ra"),
             mapping_of(other, 0x300000, mib, "/dev/shm/not.qemu_back_mem.pc.ram.Xb1Yc2"),
             mapping_of(other, 0x400000, mib, "/dev/qemu_back_mem.pc.ram./x"), mapping_of(other, 0x500000, mib, ""),
             mapping_of(one, 0x600000, mib, "/dev/shm/qemu_back_mem.pc.ram.Xb1Yc2 (deleted)"),
             mapping_of(two, 0x800000, mib, "/dev/shm/qemu_back_mem._objects_m1.Zd3We4 (deleted)"));
    ASSERT_TRUE(blocks) << blocks.error().to_string();
    ASSERT_EQ(blocks->size(), 2U);
    EXPECT_EQ(blocks->at(0).info.name, "/objects/m1");
    EXPECT_EQ(blocks->at(0).info.guest_address, 0x800000U);
    expect_file(blocks->at(0), two);
    EXPECT_EQ(blocks->at(1).info.name, "pc.ram");
    EXPECT_EQ(blocks->at(1).info.guest_address, 0x600000U);
    expect_file(blocks->at(1), one);
}

TEST(FindGuestRam, JoinsWhatTheKernelHasSplit) {
    const Fd file = make_file();
    const Fd between = make_file();
    auto [first, second] = halves_of(file);
    first.file_offset = 8 * mib;
    second.file_offset = 9 * mib;
    // Another file's mapping in between, in the list, is not in between in memory.
    const auto blocks =
        find({backend_of(file, "pc.ram", 2 * mib)}, std::move(first), mapping_of(between, 0x1000, page), std::move(second));
    ASSERT_TRUE(blocks) << blocks.error().to_string();
    ASSERT_EQ(blocks->size(), 1U);
    EXPECT_EQ(blocks->front().info.length, 2 * mib);
    EXPECT_EQ(blocks->front().info.file_offset, 8 * mib);
    EXPECT_EQ(blocks->front().info.guest_address, 0x10000000U);
}

void expect_mapped_twice(const Result<std::vector<GuestRamBlock>>& blocks) {
    ASSERT_FALSE(blocks);
    EXPECT_EQ(blocks.error().code, ErrorCode::unsupported);
    EXPECT_EQ(blocks.error().object, "RAM block pc.ram");
    EXPECT_EQ(blocks.error().reason, "its file is mapped more than once");
    EXPECT_EQ(blocks.error().remedy, "give each memory backend a file of its own");
}

TEST(FindGuestRam, RefusesAFileThatIsMappedTwice) {
    const Fd file = make_file();
    const RamBackend backend = backend_of(file, "pc.ram", 2 * mib);
    {
        SCOPED_TRACE("elsewhere");
        auto [first, second] = halves_of(file);
        second.address += page;
        expect_mapped_twice(find({backend}, std::move(first), std::move(second)));
    }
    {
        SCOPED_TRACE("next to it, but of another part of the file");
        auto [first, second] = halves_of(file);
        second.file_offset += page;
        expect_mapped_twice(find({backend}, std::move(first), std::move(second)));
    }
    {
        SCOPED_TRACE("whole, and whole again");
        expect_mapped_twice(find({backend}, mapping_of(file, 0x10000000, 2 * mib), mapping_of(file, 0x20000000, 2 * mib)));
    }
}

TEST(FindGuestRam, AFileThatCouldNotBeHadIsAnError) {
    const Fd file = make_file();
    AgentMapping mapping = mapping_of(file, 0x10000, mib, "/dev/shm/vm");
    mapping.fd.reset();
    mapping.error = ENXIO;
    const auto blocks = find({backend_of(file, "pc.ram", mib)}, std::move(mapping));
    ASSERT_FALSE(blocks);
    EXPECT_EQ(blocks.error().native, ENXIO);
    EXPECT_EQ(blocks.error().object, "/dev/shm/vm");
    EXPECT_EQ(blocks.error().remedy, "QEMU must keep its RAM file open");
}

TEST(FindGuestRam, AnErrorInASecondPartIsOneToo) {
    const Fd file = make_file();
    auto [first, second] = halves_of(file);
    second.fd.reset();
    second.error = EMFILE;
    const auto blocks = find({backend_of(file, "pc.ram", 2 * mib)}, std::move(first), std::move(second));
    ASSERT_FALSE(blocks);
    EXPECT_EQ(blocks.error().code, ErrorCode::resources);
}

TEST(FindGuestRam, MappingsOfNobodysFileAreLeftAlone) {
    const Fd file = make_file();
    AgentMapping device{.address = 0x1000, .length = page, .path = "/dev/kvm"};
    device.error = EBADF;
    EXPECT_TRUE(find({backend_of(file, "pc.ram", mib)}, std::move(device), mapping_of(file, 0x10000, mib)));
}

TEST(FindGuestRam, ABackendWithoutAMappingOrWithAShortOneIsNamedWithTheRemedy) {
    const Fd there = make_file();
    const Fd file = make_file();
    const std::vector<RamBackend> backends{backend_of(there, "m0", mib), backend_of(file, "m1", 2 * mib)};
    const auto missing = find(backends, mapping_of(there, 0x100000, mib));
    const auto too_short = find(backends, mapping_of(there, 0x100000, mib), mapping_of(file, 0x800000, 2 * mib - page));
    const auto nothing = find_guest_ram(backends, {});
    for (const auto* blocks : {&missing, &too_short}) {
        ASSERT_FALSE(*blocks);
        EXPECT_EQ(blocks->error().code, ErrorCode::unsupported);
        EXPECT_EQ(blocks->error().object, "RAM block m1");
        EXPECT_EQ(blocks->error().remedy,
                  "give it as: -object memory-backend-file,id=m1,size=2097152,mem-path=/dev/shm,share=on");
    }
    ASSERT_FALSE(nothing);
    EXPECT_EQ(nothing.error().object, "RAM block m0");
}

TEST(FindGuestRam, ABlockIsAsLongAsItsBackendNotAsItsMapping) { // of huge pages, the last one may be needed in part
    const Fd file = make_file();
    const auto blocks = find({backend_of(file, "pc.ram", 3 * mib)}, mapping_of(file, 0x10000, 4 * mib));
    ASSERT_TRUE(blocks);
    EXPECT_EQ(blocks->front().info.length, 3 * mib);
}

TEST(FindGuestRam, BlocksAreInTheOrderOfTheirNames) {
    const Fd a = make_file();
    const Fd b = make_file();
    const Fd c = make_file();
    const auto blocks = find({backend_of(b, "m10", mib), backend_of(c, "pc.ram", mib), backend_of(a, "m1", mib)},
                             mapping_of(c, 0x100000, mib), mapping_of(a, 0x300000, mib), mapping_of(b, 0x500000, mib));
    ASSERT_TRUE(blocks);
    ASSERT_EQ(blocks->size(), 3U);
    EXPECT_EQ(blocks->at(0).info.name, "m1");
    EXPECT_EQ(blocks->at(1).info.name, "m10");
    EXPECT_EQ(blocks->at(2).info.name, "pc.ram");
    expect_file(blocks->at(0), a);
    expect_file(blocks->at(1), b);
    expect_file(blocks->at(2), c);
}

TEST(FindGuestRam, NoBackendIsAnError) {
    const Fd file = make_file();
    const auto blocks = find({}, mapping_of(file, 0x10000, mib));
    ASSERT_FALSE(blocks);
    EXPECT_EQ(blocks.error().code, ErrorCode::unsupported);
    EXPECT_EQ(blocks.error().object, "guest RAM");
}

TEST(FindGuestRam, LeavesNoDescriptorButTheBlocks) {
    const Fd file = make_file();
    const Fd other = make_file();
    const std::size_t before = open_descriptors();
    {
        auto [first, second] = halves_of(file);
        const auto blocks =
            find({backend_of(file, "pc.ram", 2 * mib)}, std::move(first), mapping_of(other, 0x1000, page), std::move(second));
        ASSERT_TRUE(blocks);
        EXPECT_EQ(open_descriptors(), before + 1);
    }
    EXPECT_FALSE(find({backend_of(file, "pc.ram", mib), backend_of(other, "x", mib)}, mapping_of(file, 0x10000, mib)));
    EXPECT_EQ(open_descriptors(), before);
}

// A shared mapping whose writes this process's own userfaultfds can track.
class StopTracking : public testing::Test {
protected:
    static constexpr std::uint64_t length = 4 * page;

    void SetUp() override {
        tracking = make_userfaultfd();
        another = make_userfaultfd();
        if (!tracking || !another) {
            GTEST_SKIP() << "no userfaultfd that tracks writes to shared memory can be made here";
        }
        ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(length)), 0);
        memory = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
        ASSERT_NE(memory, MAP_FAILED);
        for (std::uint64_t at = 0; at < length; at += page) {
            bytes()[at] = 1;
        }
    }
    void TearDown() override {
        if (memory != MAP_FAILED) {
            ::munmap(memory, length);
        }
    }

    static Fd make_userfaultfd() {
        Fd made{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY))};
        uffdio_api api{.api = UFFD_API, .features = UFFD_FEATURE_WP_HUGETLBFS_SHMEM, .ioctls = 0};
        return made && ::ioctl(made.get(), UFFDIO_API, &api) == 0 ? std::move(made) : Fd{};
    }
    [[nodiscard]] volatile char* bytes() const { return static_cast<volatile char*>(memory); }
    [[nodiscard]] std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(memory); }
    [[nodiscard]] memory::RamBlockInfo part(std::uint64_t first, std::uint64_t pages) const {
        return {.name = "pc.ram", .length = pages * page, .page_size = page, .guest_address = address() + first * page};
    }
    // A range belongs to one userfaultfd at a time: EBUSY where it has another one.
    static int track(const Fd& userfaultfd, const memory::RamBlockInfo& block) {
        uffdio_register range{
            .range = {.start = block.guest_address, .len = block.length}, .mode = UFFDIO_REGISTER_MODE_WP, .ioctls = 0};
        if (::ioctl(userfaultfd.get(), UFFDIO_REGISTER, &range) != 0) {
            return errno;
        }
        uffdio_writeprotect protect{.range = range.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
        return ::ioctl(userfaultfd.get(), UFFDIO_WRITEPROTECT, &protect) == 0 ? 0 : errno;
    }

    Fd file = make_file();
    void* memory = MAP_FAILED;
    Fd tracking;
    Fd another;
};

TEST_F(StopTracking, GivesTheRangesBackAndWritesAreFree) {
    const std::vector blocks{part(0, 1), part(2, 2)};
    for (const auto& block : blocks) {
        ASSERT_EQ(track(tracking, block), 0);
        ASSERT_EQ(track(another, block), EBUSY);
    }
    stop_tracking(tracking, blocks);
    for (const auto& block : blocks) {
        ASSERT_EQ(track(another, block), 0);
    }
    stop_tracking(another, blocks);
    for (std::uint64_t at = 0; at < length; at += page) {
        bytes()[at] = 2; // would wait for ever
        EXPECT_EQ(bytes()[at], 2);
    }
}

TEST_F(StopTracking, ABlockThatIsNotTrackedDoesNotKeepTheOthers) {
    ASSERT_EQ(track(tracking, part(2, 1)), 0);
    memory::RamBlockInfo odd = part(0, 1);
    odd.length -= 1;
    const memory::RamBlockInfo nowhere{.name = "x", .length = page, .guest_address = 0};
    stop_tracking(tracking, std::vector{part(0, 1), odd, nowhere, part(2, 1)});
    EXPECT_EQ(track(another, part(2, 1)), 0);
    stop_tracking(tracking, std::vector{part(0, 1)}); // nothing is left: nothing happens
}

TEST_F(StopTracking, OtherBlocksStayTracked) {
    ASSERT_EQ(track(tracking, part(0, 1)), 0);
    ASSERT_EQ(track(tracking, part(3, 1)), 0);
    stop_tracking(tracking, std::vector{part(0, 1)});
    EXPECT_EQ(track(another, part(3, 1)), EBUSY);
    stop_tracking(tracking, {});
    EXPECT_EQ(track(another, part(3, 1)), EBUSY);
}

TEST_F(StopTracking, WithoutAUserfaultfdNothingHappens) {
    ASSERT_EQ(track(tracking, part(0, 1)), 0);
    stop_tracking(Fd{}, std::vector{part(0, 1)});
    EXPECT_EQ(track(another, part(0, 1)), EBUSY);
}

TEST(FindGuestRam, AnIdThatIsThePrefixOfAnother) {
    const Fd a{::memfd_create("a", MFD_CLOEXEC)};
    const Fd b{::memfd_create("b", MFD_CLOEXEC)};
    const std::vector<RamBackend> backends{{.id = "ram", .size = 4096, .mem_path = "/dev/shm", .directory = true},
                                           {.id = "ram.1", .size = 4096, .mem_path = "/dev/shm", .directory = true}};
    std::vector<AgentMapping> mappings;
    mappings.push_back(mapping_of(a, 0x10000, 4096, "/dev/shm/qemu_back_mem.ram.Xb1Yc2 (deleted)"));
    mappings.push_back(mapping_of(b, 0x20000, 4096, "/dev/shm/qemu_back_mem.ram.1.Zd3We4 (deleted)"));
    const auto blocks = find_guest_ram(backends, std::move(mappings));
    EXPECT_TRUE(blocks) << blocks.error().to_string();
}

TEST(FindGuestRam, AWrongBlockIsTakenWhereOnlyTheLongerIdIsMapped) {
    const Fd b{::memfd_create("b", MFD_CLOEXEC)};
    const std::vector<RamBackend> backends{{.id = "ram", .size = 4096, .mem_path = "/dev/shm", .directory = true}};
    std::vector<AgentMapping> mappings;
    mappings.push_back(mapping_of(b, 0x20000, 4096, "/dev/shm/qemu_back_mem.ram.1.Zd3We4 (deleted)"));
    EXPECT_FALSE(find_guest_ram(backends, std::move(mappings)));
}

TEST(FindGuestRam, TheSameIdInAnotherDirectory) {
    const Fd b{::memfd_create("b", MFD_CLOEXEC)};
    const std::vector<RamBackend> backends{{.id = "ram", .size = 4096, .mem_path = "/dev/hugepages", .directory = true}};
    std::vector<AgentMapping> mappings;
    mappings.push_back(mapping_of(b, 0x20000, 4096, "/tmp/qemu_back_mem.ram.Zd3We4"));
    EXPECT_FALSE(find_guest_ram(backends, std::move(mappings)));
}

TEST(FindGuestRam, NoDescriptorLeftIsAnError) {
    const Fd a{::memfd_create("a", MFD_CLOEXEC)};
    std::vector<AgentMapping> mappings;
    mappings.push_back(mapping_of(a, 0x10000, 4096, "/dev/shm/qemu_back_mem.ram.Xb1Yc2 (deleted)"));
    const std::vector<RamBackend> backends{{.id = "ram", .size = 4096, .mem_path = "/dev/shm", .directory = true}};
    const int next = ::fcntl(a.get(), F_DUPFD_CLOEXEC, 0);
    ::close(next);
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    const rlimit tight{.rlim_cur = static_cast<rlim_t>(next), .rlim_max = limit.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &tight);
    const auto blocks = find_guest_ram(backends, std::move(mappings));
    ::setrlimit(RLIMIT_NOFILE, &limit);
    EXPECT_FALSE(blocks);
    if (blocks) {
        EXPECT_TRUE(blocks->front().file);
    }
}

} // namespace
} // namespace pageferry::hypervisor
