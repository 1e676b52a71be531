// Writes that race with collect(): whatever the moment, no write is lost.
#include "memory/dirty_tracker.h"

#include "hypervisor_process.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <thread>

using namespace pageferry;
using namespace pageferry::memory;
using pageferry::memory::testing::huge_pages;
using pageferry::memory::testing::HugePages;
using pageferry::memory::testing::HypervisorProcess;
using pageferry::memory::testing::PageKind;
using pageferry::memory::testing::small_pages;
using pageferry::memory::testing::transparent_huge_pages;

namespace {

constexpr std::uint64_t small = 4096;
constexpr std::uint64_t huge = std::uint64_t{2} << 20;

class DirtyRace : public ::testing::TestWithParam<PageKind> {
protected:
    // As a migration does it: copy each extent after it was told.
    void copy(const std::vector<BlockExtent>& dirty) {
        for (const auto& [block, extent] : dirty) {
            std::memcpy(image_[block].get() + extent.offset, child_->block(block).alias() + extent.offset, extent.length);
        }
    }

    HugePages reserved_{GetParam().size == huge ? std::uint64_t{64} : std::uint64_t{0}};
    std::unique_ptr<HypervisorProcess> child_;
    std::vector<std::unique_ptr<std::byte[]>> image_;
};

TEST_P(DirtyRace, TheCopyIsWholeWhenTheWriterStops) {
    const bool huge_ram = GetParam().size == huge;
    if (!available(GetParam()) || (huge_ram && !reserved_.available())) {
        GTEST_SKIP() << "no huge pages can be had here";
    }
    child_ = std::make_unique<HypervisorProcess>(
        GetParam(), std::vector<pageferry::memory::testing::BlockSpec>{{"pc.ram", huge_ram ? 12U : 3000U, 0},
                                                                       {"dimm1", huge_ram ? 4U : 700U, 1}});
    auto tracker = make_dirty_tracker(child_->handles());
    if (!tracker && tracker.error().code == ErrorCode::unsupported) {
        GTEST_SKIP() << tracker.error().to_string();
    }
    ASSERT_TRUE(tracker) << tracker.error().to_string();
    for (const RamBlock* block : child_->blocks()) {
        image_.push_back(std::make_unique<std::byte[]>(block->info().length));
    }
    for (std::uint64_t seed = 1; seed <= 10; ++seed) {
        child_->start_writing(seed); // also while the tracking starts
        const auto started = (*tracker)->start(child_->blocks());
        if (!started && started.error().code == ErrorCode::unsupported) {
            GTEST_SKIP() << started.error().to_string(); // soft-dirty and huge pages
        }
        ASSERT_TRUE(started) << started.error().to_string();
        for (std::size_t i = 0; i < image_.size(); ++i) { // the first pass
            const auto data = data_extents(child_->block(i));
            ASSERT_TRUE(data);
            std::memset(image_[i].get(), 0, child_->block(i).info().length);
            for (const Extent& extent : *data) {
                std::memcpy(image_[i].get() + extent.offset, child_->block(i).alias() + extent.offset, extent.length);
            }
        }
        // Until twenty have caught the writer at work, however slowly it is scheduled.
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds{60};
        for (int caught = 0; caught < 20;) {
            ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "the writer does not write";
            std::vector<BlockExtent> dirty;
            ASSERT_TRUE((*tracker)->collect(dirty));
            caught += dirty.empty() ? 0 : 1;
            copy(dirty);
            if (dirty.empty()) {
                std::this_thread::yield();
            }
        }
        EXPECT_GT(child_->stop_writing(), 0U);
        std::vector<BlockExtent> last;
        ASSERT_TRUE((*tracker)->collect(last));
        copy(last);
        for (std::size_t i = 0; i < image_.size(); ++i) {
            ASSERT_EQ(std::memcmp(image_[i].get(), child_->block(i).alias(), child_->block(i).info().length), 0)
                << "seed " << seed << " block " << i;
        }
        (*tracker)->stop();
    }
}

INSTANTIATE_TEST_SUITE_P(Pages, DirtyRace, ::testing::Values(small_pages, transparent_huge_pages, huge_pages),
                         [](const auto& parameter) { return parameter.param.name; });

} // namespace
