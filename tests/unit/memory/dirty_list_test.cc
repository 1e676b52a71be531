#include "memory/dirty_list.h"

#include <gtest/gtest.h>

using namespace pageferry::memory;

namespace {

TEST(DirtyList, JoinsNeighboursOfOneBlockOnly) {
    std::vector<BlockExtent> dirty{{0, {0, 4096}}}; // the caller's
    append_dirty(dirty, 1, {0, {4096, 4096}});
    append_dirty(dirty, 1, {0, {8192, 4096}});
    append_dirty(dirty, 1, {1, {12288, 4096}});
    append_dirty(dirty, 1, {1, {20480, 4096}});
    EXPECT_EQ(dirty, (std::vector<BlockExtent>{{0, {0, 4096}}, {0, {4096, 8192}}, {1, {12288, 4096}}, {1, {20480, 4096}}}));
}

TEST(DirtyList, NormaliseSortsAndMergesOverlaps) {
    std::vector<BlockExtent> dirty{{9, {0, 1}}, {1, {30, 10}}, {0, {10, 10}}, {0, {15, 3}}, {0, {20, 5}}, {1, {0, 10}}};
    normalise_dirty(dirty, 1);
    EXPECT_EQ(dirty, (std::vector<BlockExtent>{{9, {0, 1}}, {0, {10, 15}}, {1, {0, 10}}, {1, {30, 10}}}));
    normalise_dirty(dirty, 4);
    EXPECT_EQ(dirty.size(), 4U);
}

} // namespace
