// Pulls: the destination fetches from the source's RAM, bulk and urgent.
#include "ends.h"
#include "ram.h"

#include <numeric>
#include <vector>

namespace pageferry::conformance {
namespace {

class Pull : public testing::TestWithParam<std::uint32_t> {
protected:
    void SetUp() override {
        paint(rams);
        pair = connect_pair();
        ASSERT_TRUE(pair);
        add_memory(pair, rams, PF_MEMORY_PULL_SOURCE, PF_MEMORY_PULL_TARGET);
        const pf_extent one = extent(rams.destination[1], 0, 1, 77);
        std::size_t accepted = 0;
        if (transport().pull(pair.destination.get(), GetParam(), &one, 1, &accepted, nullptr) == PF_UNSUPPORTED) {
            GTEST_SKIP() << transport().name << " cannot pull";
        }
        Seen seen;
        ASSERT_EQ(poll_into(pair.destination, seen, patience), PF_OK);
        ASSERT_EQ(seen.times[77], 1);
        rams.destination[1].fill(0xee);
    }
    void pull_and_compare(const std::vector<pf_extent>& extents) {
        Seen seen;
        ASSERT_TRUE(run_all(pair.destination, pulling(pair.destination, GetParam()), extents, seen));
        EXPECT_EQ(seen.times.size(), extents.size());
        EXPECT_TRUE(seen.bad.empty());
        expect_moved(rams, extents); // a completed pull needs no fence
    }

    TwoRams rams = usual_rams();
    Pair pair;
};

class PullOnBothLanes : public Pull {};

TEST_P(Pull, PagesArriveAtTheirOffsets) {
    std::vector<pf_extent> extents;
    extents.reserve(rams.destination.size());
    for (const Ram& ram : rams.destination) {
        for (std::uint64_t offset = 0; offset < ram.length(); offset += 5 * small_page) {
            extents.push_back(extent(ram, offset, small_page, extents.size()));
        }
    }
    pull_and_compare(extents);
}

TEST_P(Pull, WholeBlocks) {
    std::vector<pf_extent> extents;
    extents.reserve(rams.destination.size());
    for (const Ram& ram : rams.destination) {
        extents.push_back(extent(ram, 0, ram.length(), extents.size()));
    }
    pull_and_compare(extents);
}

TEST_P(Pull, RandomExtents) {
    pull_and_compare(random_extents(rams.destination, 1000, 1ULL << 20U, 52));
}

TEST_P(Pull, OutsideABlockOrWithoutTheRightIsRefused) {
    const Ram& ram = rams.destination[0];
    const std::vector<pf_extent> wrong{extent(ram, ram.length(), 1),
                                       extent(ram, 0, ram.length() + 1),
                                       extent(ram, 0, 0),
                                       {.block = 1, .reserved = 0, .offset = 0, .length = 1, .cookie = 0}};
    std::size_t accepted = 0;
    for (const pf_extent& one : wrong) {
        const int status = transport().pull(pair.destination.get(), GetParam(), &one, 1, &accepted, nullptr);
        EXPECT_TRUE(status == PF_INVALID || status == PF_NOT_FOUND || status == PF_PERMISSION) << status;
    }
    const pf_extent back = extent(rams.source[0], 0, small_page);
    const int status = transport().pull(pair.source.get(), GetParam(), &back, 1, &accepted, nullptr);
    EXPECT_TRUE(status == PF_INVALID || status == PF_PERMISSION) << status;
    expect_untouched(rams.destination);
    pull_and_compare({extent(ram, 0, small_page, 1)});
}

TEST_P(Pull, CountersAddUp) {
    const auto extents = random_extents(rams.destination, 100, 10'000, 54);
    pull_and_compare(extents);
    const auto pulled = std::accumulate(extents.begin(), extents.end(), std::uint64_t{1}, // one byte in SetUp
                                        [](std::uint64_t sum, const pf_extent& one) { return sum + one.length; });
    pf_counters counters{};
    counters.size = sizeof counters;
    ASSERT_EQ(transport().counters(pair.destination.get(), &counters), PF_OK);
    EXPECT_EQ(counters.bytes_pulled, pulled);
    EXPECT_EQ(counters.bytes_pushed, 0U);
}

// Faults are pulled by another thread than the bulk, at the same time.
TEST_P(PullOnBothLanes, AtOnce) {
    const Ram& bulk = rams.destination[0];
    const Ram& faults = rams.destination[2];
    std::vector<pf_extent> far;
    std::vector<pf_extent> near;
    for (std::uint64_t offset = 0; offset < bulk.length(); offset += 256UL * 1024) {
        far.push_back(extent(bulk, offset, 256UL * 1024, offset));
    }
    for (std::uint64_t offset = 0; offset < faults.length(); offset += 16 * small_page) {
        near.push_back(extent(faults, offset, small_page, 1ULL << 40U | offset));
    }
    const auto start_all = [&](std::uint32_t lane, std::span<const pf_extent> extents) {
        while (!extents.empty()) {
            std::size_t accepted = 0;
            const int status = transport().pull(pair.destination.get(), lane, extents.data(), extents.size(), &accepted, nullptr);
            if (status != PF_OK && status != PF_AGAIN) {
                return status;
            }
            extents = extents.subspan(status == PF_OK ? accepted : 0);
        }
        return int{PF_OK};
    };
    Background urgent{"urgent pulls", [&] { return start_all(PF_PULL_URGENT, near); }};
    Background usual{"bulk pulls", [&] { return start_all(PF_PULL_BULK, far); }};
    Seen seen;
    while (seen.times.size() < far.size() + near.size()) {
        ASSERT_EQ(poll_into(pair.destination, seen, patience), PF_OK);
    }
    EXPECT_EQ(urgent.get(), PF_OK);
    EXPECT_EQ(usual.get(), PF_OK);
    far.insert(far.end(), near.begin(), near.end());
    expect_moved(rams, far);
}

INSTANTIATE_TEST_SUITE_P(Lanes, Pull, testing::Values(PF_PULL_BULK, PF_PULL_URGENT),
                         [](const auto& lane) { return lane.param == PF_PULL_BULK ? "Bulk" : "Urgent"; });

INSTANTIATE_TEST_SUITE_P(Lanes, PullOnBothLanes, testing::Values(PF_PULL_URGENT));

} // namespace
} // namespace pageferry::conformance
