#include "hypervisor_process.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>

using namespace pageferry;
using namespace pageferry::memory;
using pageferry::memory::testing::HugePages;
using pageferry::memory::testing::make_ram_file;

namespace {

constexpr std::uint64_t small = 4096;
constexpr std::uint64_t huge = std::uint64_t{2} << 20;

std::string refusal(RamBlockInfo info, Fd file) {
    auto block = RamBlock::map(std::move(info), std::move(file));
    return block ? "accepted" : block.error().to_string();
}

TEST(RamBlock, MapsTheFileAndTakesItsPageSize) {
    Fd file = make_ram_file(small, 8 * small);
    const Fd second = file.duplicate();
    auto block = RamBlock::map({.name = "pc.ram", .length = 4 * small, .file_offset = 4 * small}, std::move(file));
    ASSERT_TRUE(block) << block.error().to_string();
    EXPECT_EQ(block->info().page_size, small);
    EXPECT_EQ(block->pages(), 4U);
    EXPECT_FALSE(block->is_hugetlb());
    std::memcpy(block->alias(), "alias", 5);
    std::array<char, 5> text{};
    ASSERT_EQ(::pread(second.get(), text.data(), 5, 4 * small), 5);
    EXPECT_EQ(std::memcmp(text.data(), "alias", 5), 0);

    RamBlock moved = std::move(*block);
    RamBlock& same = moved;
    moved = std::move(same);
    EXPECT_EQ(std::memcmp(moved.alias(), "alias", 5), 0);
}

TEST(RamBlock, RefusesWhatCannotBeRight) {
    const auto file = [] { return make_ram_file(small, 4 * small); };
    EXPECT_NE(refusal({.name = "a", .length = 5 * small}, file()).find("too short"), std::string::npos);
    EXPECT_NE(refusal({.name = "a", .length = small, .file_offset = ~(small - 1)}, file()).find("too short"), std::string::npos);
    EXPECT_NE(refusal({.name = "a", .length = 100}, file()).find("length 100 is not a multiple"), std::string::npos);
    EXPECT_NE(refusal({.name = "a", .length = 0}, file()).find("length 0"), std::string::npos);
    EXPECT_NE(refusal({.name = "a", .length = small, .file_offset = 1}, file()).find("file offset 1"), std::string::npos);
    EXPECT_NE(refusal({.name = "a", .length = small, .guest_address = 7}, file()).find("guest address 7"), std::string::npos);
    EXPECT_NE(refusal({.name = "a", .length = small, .page_size = huge}, file()).find("2097152"), std::string::npos);
    EXPECT_NE(refusal({.name = "a", .length = small}, Fd{}).find("fstatfs"), std::string::npos);
    std::string path = "/var/tmp/pageferry-test-XXXXXX";
    Fd disk{::mkstemp(path.data())};
    ASSERT_TRUE(disk);
    ::unlink(path.c_str());
    const Fd other{disk.duplicate()};
    if (const auto size = file_page_size(disk.get()); size) {
        GTEST_SKIP() << "/var/tmp is on tmpfs here";
    }
    const std::string text = refusal({.name = "a", .length = small}, std::move(disk));
    EXPECT_NE(text.find("neither on tmpfs nor on hugetlbfs"), std::string::npos) << text;
}

TEST(RamBlock, HugePages) {
    const HugePages reserved{4};
    if (!reserved.available()) {
        GTEST_SKIP() << "no huge pages can be reserved here";
    }
    auto block = RamBlock::map({.name = "pc.ram", .length = 2 * huge}, make_ram_file(huge, 2 * huge));
    ASSERT_TRUE(block) << block.error().to_string();
    EXPECT_EQ(block->info().page_size, huge);
    EXPECT_TRUE(block->is_hugetlb());
    EXPECT_NE(refusal({.name = "a", .length = small}, make_ram_file(huge, huge)).find("not a multiple"), std::string::npos);
}

TEST(RamBlock, TooFewHugePagesAreSaidAtOnce) {
    const HugePages reserved{1};
    if (!reserved.available()) {
        GTEST_SKIP() << "no huge pages can be reserved here";
    }
    const std::uint64_t length = std::uint64_t{1} << 44; // more than any pool
    const std::string text = refusal({.name = "pc.ram", .length = length}, make_ram_file(huge, length));
    EXPECT_NE(text.find("reserve more huge pages"), std::string::npos) << text;
}

} // namespace
