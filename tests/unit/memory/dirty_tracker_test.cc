// Dirty tracking of another process, on the running kernel: what the child wrote is what the tracker says.
#include "memory/dirty_tracker.h"

#include "hypervisor_process.h"

#include "memory/kernel_abi.h"
#include "memory/pagemap.h"

#include <gtest/gtest.h>

#include <fcntl.h>

#include <algorithm>
#include <random>
#include <set>

using namespace pageferry;
using namespace pageferry::memory;
using pageferry::memory::testing::BlockSpec;
using pageferry::memory::testing::huge_pages;
using pageferry::memory::testing::HugePages;
using pageferry::memory::testing::HypervisorProcess;
using pageferry::memory::testing::PageKind;
using pageferry::memory::testing::small_pages;
using pageferry::memory::testing::transparent_huge_pages;

namespace {

constexpr std::uint64_t small = 4096;
constexpr std::uint64_t huge = std::uint64_t{2} << 20;

using Pages = std::set<std::pair<std::size_t, std::uint64_t>>; // block, page

class DirtyTracking : public ::testing::TestWithParam<PageKind> {
protected:
    void SetUp() override {
        if (!available(GetParam())) {
            GTEST_SKIP() << "no transparent huge pages can be made here";
        }
        if (page() == huge && !reserved_.available()) {
            GTEST_SKIP() << "no huge pages can be reserved here";
        }
        child_ = std::make_unique<HypervisorProcess>(GetParam(), specs());
        auto made = make_dirty_tracker(child_->handles());
        if (!made && made.error().code == ErrorCode::unsupported) {
            GTEST_SKIP() << made.error().to_string();
        }
        ASSERT_TRUE(made) << made.error().to_string();
        tracker_ = std::move(*made);
        if (tracker_->name() == "soft-dirty") {
            GTEST_SKIP() << "this kernel has soft-dirty alone";
        }
    }

    [[nodiscard]] static std::uint64_t page() { return GetParam().size; }
    [[nodiscard]] static std::vector<BlockSpec> specs() {
        return page() == huge ? std::vector<BlockSpec>{{"pc.ram", 12, 0}, {"dimm1", 5, 3}}
                              : std::vector<BlockSpec>{{"pc.ram", 5000, 0}, {"dimm1", 1029, 3}, {"dimm2", 1, 0}};
    }

    void start() {
        const auto started = tracker_->start(child_->blocks());
        ASSERT_TRUE(started) << started.error().to_string();
    }

    // Pages, after checking that the list is sorted, merged and within the blocks.
    Pages collect() {
        std::vector<BlockExtent> dirty;
        const auto collected = tracker_->collect(dirty);
        EXPECT_TRUE(collected) << collected.error().to_string();
        Pages pages;
        for (std::size_t i = 0; i < dirty.size(); ++i) {
            const auto& [block, extent] = dirty[i];
            EXPECT_EQ(extent.offset % page(), 0U);
            EXPECT_EQ(extent.length % page(), 0U);
            EXPECT_LE(extent.offset + extent.length, child_->block(block).info().length);
            if (i > 0 && dirty[i - 1].block == block) {
                EXPECT_LT(dirty[i - 1].extent.offset + dirty[i - 1].extent.length, extent.offset) << "not sorted and merged";
            } else if (i > 0) {
                EXPECT_LT(dirty[i - 1].block, block);
            }
            for (std::uint64_t at = extent.offset; at < extent.offset + extent.length; at += page()) {
                pages.emplace(block, at / page());
            }
        }
        return pages;
    }

    // Random pages, alone and in runs.
    Pages write_some(std::mt19937& random) {
        Pages written_pages;
        for (std::size_t block = 0; block < specs().size(); ++block) {
            std::vector<std::uint64_t> pages;
            const std::uint64_t all = child_->block(block).pages();
            for (std::uint64_t runs = random() % 12; runs > 0; --runs) {
                const std::uint64_t first = random() % all;
                const std::uint64_t length = random() % 3 == 0 ? 1 + random() % 300 : 1;
                for (std::uint64_t i = first; i < std::min(all, first + length); ++i) {
                    pages.push_back(i);
                    written_pages.emplace(block, i);
                }
            }
            std::ranges::shuffle(pages, random);
            child_->write(block, pages);
        }
        return written_pages;
    }

    HugePages reserved_{GetParam().size == huge ? std::uint64_t{64} : std::uint64_t{0}};
    std::unique_ptr<HypervisorProcess> child_;
    std::unique_ptr<DirtyTracker> tracker_;
};

TEST_P(DirtyTracking, NothingIsDirtyAtFirst) {
    child_->write(0, {0, 1, 7});
    child_->read(0, 3);
    start();
    EXPECT_EQ(collect(), Pages{});
    child_->read(0, 4);
    child_->read(0, 1);
    EXPECT_EQ(collect(), Pages{});
    EXPECT_EQ(tracker_->estimate().value(), 0U);
}

TEST_P(DirtyTracking, WhatIsWrittenIsWhatIsTold) {
    std::mt19937 random{11};
    write_some(random); // pages with and without data at the start
    start();
    for (int round = 0; round < 60; ++round) {
        const Pages expected = write_some(random);
        EXPECT_EQ(tracker_->estimate().value(), expected.size() * page());
        EXPECT_EQ(collect(), expected) << "round " << round;
        EXPECT_EQ(collect(), Pages{}) << "round " << round;
    }
}

TEST_P(DirtyTracking, AppendsToTheCallersList) {
    start();
    child_->write(0, {1});
    std::vector<BlockExtent> dirty{{0, {0, page()}}};
    ASSERT_TRUE(tracker_->collect(dirty));
    EXPECT_EQ(dirty, (std::vector<BlockExtent>{{0, {0, page()}}, {0, {page(), page()}}}));
}

TEST_P(DirtyTracking, APartIsLookedAtByItself) {
    start();
    child_->write(0, {1, 2, 3, 4, 9});
    child_->drop(0, 4, 1);
    child_->write(1, {0});
    const auto part = [&](std::uint64_t first, std::uint64_t count) {
        std::vector<BlockExtent> dirty;
        EXPECT_TRUE(tracker_->collect_part(0, {.offset = first * page(), .length = count * page()}, dirty));
        return dirty;
    };
    EXPECT_EQ(part(2, 3), (std::vector<BlockExtent>{{0, {2 * page(), 3 * page()}}}));
    EXPECT_EQ(part(2, 3), std::vector<BlockExtent>{});
    EXPECT_EQ(part(5, 3), std::vector<BlockExtent>{});
    EXPECT_EQ(collect(), (Pages{{0, 1}, {0, 9}, {1, 0}}));
}

// Every second page of a block, so that more ranges come back than one call into the kernel holds.
TEST_P(DirtyTracking, ManyScatteredPages) {
    start();
    Pages expected;
    std::vector<std::uint64_t> pages;
    for (std::uint64_t i = 0; i < child_->block(0).pages(); i += 2) {
        pages.push_back(i);
        expected.emplace(0, i);
    }
    child_->write(0, pages);
    EXPECT_EQ(collect(), expected);
    EXPECT_EQ(collect(), Pages{});
}

// A page that was written and whose page table entry is gone by the time of the scan has been written all the same.
TEST_P(DirtyTracking, AWrittenPageStaysDirtyWhenItsMappingIsDropped) {
    child_->write(0, {2, 3});
    start();
    child_->write(0, {3, 9});
    child_->drop(0, 2, 8);
    EXPECT_EQ(tracker_->estimate().value(), 2 * page());
    EXPECT_EQ(collect(), (Pages{{0, 3}, {0, 9}}));
    EXPECT_EQ(collect(), Pages{});
    child_->write(0, {3}); // and it is still tracked
    EXPECT_EQ(collect(), (Pages{{0, 3}}));
}

// ... and when whole page tables go with it.
TEST_P(DirtyTracking, AWrittenBlockStaysDirtyWhenItsMappingIsDropped) {
    start();
    Pages expected;
    std::vector<std::uint64_t> pages;
    for (std::uint64_t i = 0; i < child_->block(0).pages(); ++i) {
        pages.push_back(i);
        expected.emplace(0, i);
    }
    child_->write(0, pages);
    child_->drop(0, 0, pages.size());
    EXPECT_EQ(collect(), expected);
    child_->drop(0, 0, pages.size());
    EXPECT_EQ(collect(), Pages{});
    child_->write(0, {4});
    EXPECT_EQ(collect(), (Pages{{0, 4}}));
}

TEST_P(DirtyTracking, AWriteIntoAPunchedHoleIsSeen) {
    child_->write(0, {1, 2, 3, 4});
    start();
    child_->write(0, {2});
    child_->punch(0, 1, 4);
    (void)collect(); // the hole itself may count as dirty or not
    child_->write(0, {3});
    const Pages found = collect();
    EXPECT_TRUE(found.contains({0, 3}));
    EXPECT_EQ(collect(), Pages{});
}

TEST_P(DirtyTracking, StopGivesTheMemoryBackAndStartWorksAgain) {
    for (int round = 0; round < 3; ++round) {
        start();
        child_->write(0, {1});
        EXPECT_EQ(collect(), (Pages{{0, 1}}));
        EXPECT_FALSE(tracker_->start(child_->blocks())) << "it is started already";
        tracker_->stop();
        tracker_->stop();
        child_->write(0, {1, 2}); // nobody holds it
        EXPECT_EQ(collect(), Pages{});
    }
}

// Each migration has a mover of its own, and all have duplicates of one descriptor: its handshake was done by the first.
TEST_P(DirtyTracking, ANewTrackerWorksWithTheSameDescriptor) {
    start();
    child_->write(0, {5});
    tracker_.reset();
    for (int round = 0; round < 3; ++round) {
        tracker_ = std::move(make_dirty_tracker(child_->handles()).value());
        start();
        EXPECT_EQ(collect(), Pages{});
        child_->write(1, {4, 3});
        EXPECT_EQ(collect(), (Pages{{1, 3}, {1, 4}}));
        tracker_.reset();
    }
}

// A mover that was killed has not unregistered: the guest goes on writing, and the next one starts over.
TEST_P(DirtyTracking, AStartAfterATrackerThatDidNotStop) {
    const TrackingHandles handles = child_->handles();
    start();
    const RamBlock& block = child_->block(0);
    tracker_.reset();
    uffdio_register range = {
        .range = {.start = block.info().guest_address, .len = block.info().length}, .mode = UFFDIO_REGISTER_MODE_WP, .ioctls = 0};
    ASSERT_EQ(::ioctl(handles.userfaultfd.get(), UFFDIO_REGISTER, &range), 0); // as if it were left
    child_->write(0, {0, 1});
    tracker_ = std::move(make_dirty_tracker(child_->handles()).value());
    start();
    EXPECT_EQ(collect(), Pages{});
    child_->write(0, {1});
    EXPECT_EQ(collect(), (Pages{{0, 1}}));
}

// The descriptor was used for something else before: refused before a write could hang on it.
TEST_P(DirtyTracking, AHandshakeWithOtherFeaturesIsFoundOut) {
    ASSERT_EQ(child_->handshake(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM), 0);
    const auto started = tracker_->start(child_->blocks());
    ASSERT_FALSE(started);
    EXPECT_EQ(started.error().code, ErrorCode::unsupported);
    EXPECT_NE(started.error().to_string().find("without asynchronous write-protection"), std::string::npos);
    child_->write(0, {0, 1}); // not held
}

TEST_P(DirtyTracking, AFailedStartLeavesNothingBehind) {
    auto blocks = child_->blocks();
    RamBlockInfo info = child_->block(0).info();
    info.guest_address = 0;
    const auto unknown = RamBlock::map(info, Fd{::fcntl(child_->block(0).file(), F_DUPFD_CLOEXEC, 0)});
    info.guest_address = huge; // nothing is mapped there
    const auto elsewhere = RamBlock::map(info, Fd{::fcntl(child_->block(0).file(), F_DUPFD_CLOEXEC, 0)});
    ASSERT_TRUE(unknown && elsewhere);
    for (const RamBlock* bad : {&*unknown, &*elsewhere}) {
        auto with_bad = blocks;
        with_bad.push_back(bad);
        const auto started = tracker_->start(with_bad);
        ASSERT_FALSE(started);
        EXPECT_NE(started.error().to_string().find("pc.ram"), std::string::npos) << started.error().to_string();
        child_->write(0, {0});
        EXPECT_EQ(collect(), Pages{});
    }
    start();
    child_->write(0, {1});
    EXPECT_EQ(collect(), (Pages{{0, 1}}));
}

TEST_P(DirtyTracking, AHypervisorThatEndedIsAnErrorNotSilence) {
    start();
    child_->kill();
    std::vector<BlockExtent> dirty;
    const auto collected = tracker_->collect(dirty);
    ASSERT_FALSE(collected);
    EXPECT_NE(collected.error().to_string().find("the hypervisor has ended"), std::string::npos) << collected.error().to_string();
    tracker_->stop();
    EXPECT_FALSE(tracker_->start(child_->blocks()));
}

INSTANTIATE_TEST_SUITE_P(Pages, DirtyTracking, ::testing::Values(small_pages, transparent_huge_pages, huge_pages),
                         [](const auto& parameter) { return parameter.param.name; });

TEST(MakeDirtyTracker, SaysWhatIsMissing) {
    const auto nothing = make_dirty_tracker({});
    ASSERT_FALSE(nothing);
    EXPECT_EQ(nothing.error().code, ErrorCode::unsupported);
    const std::string text = nothing.error().to_string();
    for (const char* part : {"no userfaultfd", "no pagemap and clear_refs", "only postcopy and stop-and-copy"}) {
        EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
    }
    // A file that is no pagemap stands for a kernel without PAGEMAP_SCAN.
    TrackingHandles handles;
    handles.userfaultfd = Fd{::open("/dev/null", O_RDWR | O_CLOEXEC)};
    handles.pagemap = Fd{::open("/dev/null", O_RDWR | O_CLOEXEC)};
    const auto old = make_dirty_tracker(std::move(handles));
    ASSERT_FALSE(old);
    EXPECT_NE(old.error().to_string().find("no PAGEMAP_SCAN (Linux 6.7)"), std::string::npos) << old.error().to_string();
}

} // namespace
