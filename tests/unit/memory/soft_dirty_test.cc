// Soft-dirty tracking: its logic on files laid out as the kernel's, and the real thing where the kernel has it.
#include "memory/soft_dirty_tracker.h"

#include "hypervisor_process.h"

#include "memory/kernel_probe.h"
#include "memory/pagemap.h"

#include <gtest/gtest.h>

#include <array>

using namespace pageferry;
using namespace pageferry::memory;
using pageferry::memory::testing::HugePages;
using pageferry::memory::testing::HypervisorProcess;
using pageferry::memory::testing::make_ram_file;

namespace {

constexpr std::uint64_t page = 4096;
constexpr std::uint64_t guest = 0x10000;

class SoftDirtyFiles : public ::testing::Test {
protected:
    void entry(std::uint64_t number, std::uint64_t bits) {
        const auto where = static_cast<off_t>((guest / page + number) * sizeof bits);
        ASSERT_EQ(::pwrite(pagemap_.get(), &bits, sizeof bits, where), static_cast<ssize_t>(sizeof bits));
    }
    std::unique_ptr<DirtyTracker> tracker() { return make_soft_dirty_tracker(pagemap_.duplicate(), clear_refs_.duplicate()); }

    Fd pagemap_ = make_ram_file(page, 1 << 20);
    Fd clear_refs_ = make_ram_file(page, page);
    RamBlock block_ =
        RamBlock::map({.name = "ram", .length = 16 * page, .guest_address = guest}, make_ram_file(page, 16 * page)).value();
    std::array<const RamBlock*, 1> blocks_{&block_};
};

TEST_F(SoftDirtyFiles, TellsWrittenAndUnmappedPagesThatHaveData) {
    auto tracker = this->tracker();
    ASSERT_TRUE(tracker->start(blocks_));
    std::array<char, 1> cleared{};
    ASSERT_EQ(::pread(clear_refs_.get(), cleared.data(), 1, 0), 1);
    EXPECT_EQ(cleared[0], '4');
    for (const std::uint64_t i : {0U, 1U, 2U, 3U, 6U, 9U}) {
        block_.alias()[i * page] = std::byte{1};
    }
    entry(0, pagemap_present);
    entry(1, pagemap_present | pagemap_soft_dirty);
    entry(2, 0); // was dropped: it may have been written
    entry(3, pagemap_swapped);
    entry(5, pagemap_present | pagemap_soft_dirty); // a hole
    entry(6, pagemap_swapped | pagemap_soft_dirty);
    entry(9, pagemap_present);
    std::vector<BlockExtent> dirty;
    ASSERT_TRUE(tracker->collect(dirty));
    EXPECT_EQ(dirty, (std::vector<BlockExtent>{{0, {page, 2 * page}}, {0, {6 * page, page}}}));
    EXPECT_EQ(tracker->estimate().value(), 3 * page);
    EXPECT_FALSE(tracker->cheap_in_parts());
    dirty.clear();
    ASSERT_TRUE(tracker->collect_part(0, {.offset = 2 * page, .length = 4 * page}, dirty)); // whose extent begins before it
    EXPECT_EQ(dirty, (std::vector<BlockExtent>{{0, {2 * page, page}}}));
    dirty.clear();
    ASSERT_TRUE(tracker->collect_part(0, {.offset = 10 * page, .length = 6 * page}, dirty));
    EXPECT_TRUE(dirty.empty());
    entry(9, pagemap_present | pagemap_soft_dirty);
    dirty.clear();
    ASSERT_TRUE(tracker->collect(dirty)); // what was told before is told again
    EXPECT_EQ(dirty, (std::vector<BlockExtent>{{0, {page, 2 * page}}, {0, {6 * page, page}}, {0, {9 * page, page}}}));
    tracker->stop();
    dirty.clear();
    ASSERT_TRUE(tracker->collect(dirty));
    EXPECT_TRUE(dirty.empty());
}

TEST_F(SoftDirtyFiles, APagemapThatEndsIsAnError) {
    auto tracker = this->tracker();
    ASSERT_TRUE(tracker->start(blocks_));
    block_.alias()[0] = std::byte{1};
    ASSERT_EQ(::ftruncate(pagemap_.get(), 0), 0);
    std::vector<BlockExtent> dirty;
    EXPECT_FALSE(tracker->collect(dirty));
}

TEST_F(SoftDirtyFiles, HugePagesAreRefused) {
    const HugePages reserved{2};
    if (!reserved.available()) {
        GTEST_SKIP() << "no huge pages can be reserved here";
    }
    constexpr std::uint64_t huge = std::uint64_t{2} << 20;
    const auto block = RamBlock::map({.name = "ram", .length = huge, .guest_address = huge}, make_ram_file(huge, huge));
    ASSERT_TRUE(block);
    const std::array<const RamBlock*, 1> blocks{&*block};
    const auto started = tracker()->start(blocks);
    ASSERT_FALSE(started);
    EXPECT_EQ(started.error().code, ErrorCode::unsupported);
    EXPECT_NE(started.error().to_string().find("huge pages"), std::string::npos);
}

TEST(SoftDirty, OfAnotherProcess) {
    HypervisorProcess child{page, {{"pc.ram", 100, 0}}};
    TrackingHandles handles = child.handles();
    handles.userfaultfd.reset();
    auto tracker = make_dirty_tracker(std::move(handles));
    if (!probe_soft_dirty()) {
        ASSERT_FALSE(tracker);
        const std::string text = tracker.error().to_string();
        EXPECT_NE(text.find("CONFIG_MEM_SOFT_DIRTY"), std::string::npos) << text;
        GTEST_SKIP() << "refused, as it should be: " << text;
    }
    ASSERT_TRUE(tracker) << tracker.error().to_string();
    EXPECT_EQ((*tracker)->name(), "soft-dirty");
    child.write(0, {1, 2, 3, 50});
    ASSERT_TRUE((*tracker)->start(child.blocks()));
    std::vector<BlockExtent> dirty;
    ASSERT_TRUE((*tracker)->collect(dirty));
    EXPECT_TRUE(dirty.empty());
    child.write(0, {3, 60});
    ASSERT_TRUE((*tracker)->collect(dirty));
    EXPECT_EQ(dirty, (std::vector<BlockExtent>{{0, {3 * page, page}}, {0, {60 * page, page}}}));
    child.write(0, {2});
    child.drop(0, 50, 1);
    dirty.clear();
    ASSERT_TRUE((*tracker)->collect(dirty));
    EXPECT_EQ(dirty, (std::vector<BlockExtent>{{0, {2 * page, 2 * page}}, {0, {50 * page, page}}, {0, {60 * page, page}}}));
}

} // namespace
