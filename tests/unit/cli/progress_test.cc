#include "cli/progress.h"

#include <gtest/gtest.h>

#include <cmath>

namespace pageferry::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Time = std::chrono::steady_clock::time_point;

Snapshot active(std::uint64_t total, std::uint64_t remaining, std::uint64_t transferred) {
    Snapshot now;
    now.status = "active";
    now.total = total;
    now.remaining = remaining;
    now.transferred = transferred;
    return now;
}

TEST(Percent, IsTheShareThatNeedNotBeSentAnyMore) {
    EXPECT_EQ(percent_done(active(1000, 250, 750)), 75.0);
    EXPECT_EQ(percent_done(active(1000, 1000, 5)), 0.0);
    EXPECT_EQ(percent_done(active(1000, 0, 1000)), 100.0);
    EXPECT_EQ(percent_done(active(1000, 0, 0)), 0.0) << "QEMU's first answer, before it has counted";
    EXPECT_EQ(percent_done(active(1000, 2000, 1)), 0.0) << "never below nothing";
    EXPECT_FALSE(percent_done(active(0, 0, 0)));
    EXPECT_FALSE(percent_done(Snapshot{}));
    Snapshot end;
    end.status = "completed";
    EXPECT_EQ(percent_done(end), 100.0);
}

TEST(TimeLeft, CountsTheDirtyPagesThatComeMeanwhile) {
    EXPECT_EQ(time_left(1000, 100, 0), milliseconds{10'000});
    EXPECT_EQ(time_left(1000, 100, 50), milliseconds{20'000});
    EXPECT_EQ(time_left(0, 100, 500), milliseconds{0});
    EXPECT_FALSE(time_left(1000, 100, 100)) << "never";
    EXPECT_FALSE(time_left(1000, 100, 200));
    EXPECT_FALSE(time_left(1000, 0, 0));
    EXPECT_FALSE(time_left(UINT64_MAX, 1e-9, 0)) << "no forecast in centuries";
}

TEST(Smoothing, ReachesASteadyRate) {
    SmoothedRate rate{seconds{2}};
    Time now{};
    rate.update(0, now);
    EXPECT_FALSE(rate.per_second());
    for (std::uint64_t i = 1; i <= 100; ++i) {
        now += milliseconds{100};
        rate.update(i * 50, now);
        EXPECT_NEAR(*rate.per_second(), 500, 1e-6);
    }
}

TEST(Smoothing, FollowsAChangeByItsTimeConstant) {
    SmoothedRate rate{seconds{2}};
    Time now{};
    rate.update(0, now);
    rate.update(1000, now += seconds{1}); // 1000 a second
    rate.update(1000, now += seconds{2}); // then nothing for one time constant
    EXPECT_NEAR(*rate.per_second(), 1000 * std::exp(-1.0), 1);
}

TEST(Smoothing, DoesNotDependOnHowOftenItIsAsked) {
    SmoothedRate seldom{seconds{2}};
    SmoothedRate often{seconds{2}};
    const Time now{};
    seldom.update(0, now);
    often.update(0, now);
    seldom.update(4000, now + seconds{4});
    seldom.update(5000, now + seconds{8});
    for (std::uint64_t i = 1; i <= 400; ++i) {
        often.update(10 * i, now + milliseconds{10} * i);
    }
    for (std::uint64_t i = 1; i <= 400; ++i) {
        often.update(4000 + i * 5 / 2, now + seconds{4} + milliseconds{10} * i);
    }
    EXPECT_NEAR(*seldom.per_second(), *often.per_second(), 10);
}

TEST(Smoothing, StartsAfreshWhenTheCounterGoesBack) {
    SmoothedRate rate{seconds{2}};
    Time now{};
    rate.update(1000, now);
    rate.update(2000, now += seconds{1});
    rate.update(10, now += seconds{1});
    EXPECT_FALSE(rate.per_second());
    rate.update(20, now += seconds{1});
    EXPECT_EQ(rate.per_second(), 10.0);
    rate.update(30, now); // the same moment again says nothing
    EXPECT_EQ(rate.per_second(), 10.0);
}

TEST(ProgressViews, HaveRateAndEta) {
    Progress progress;
    const Time now{};
    Snapshot first = active(1 << 20, 1 << 20, 0);
    first.rate = 77.0;
    EXPECT_EQ(progress.update(first, now).rate, 77.0) << "before the second sample: the monitor's figure";
    const ProgressView view = progress.update(active(1 << 20, 1 << 19, 1 << 19), now + seconds{1});
    EXPECT_EQ(view.rate, 524288.0);
    EXPECT_EQ(view.eta, milliseconds{1000});
    EXPECT_EQ(view.percent, 50.0);
    EXPECT_TRUE(view.converges);
}

TEST(ProgressViews, CountZeroPagesForTheEtaButNotForTheRate) {
    Progress progress;
    const Time now{};
    Snapshot sample = active(1'000'000, 1'000'000, 0);
    sample.processed = 0;
    progress.update(sample, now);
    sample = active(1'000'000, 500'000, 100);
    sample.processed = 500'000;
    const ProgressView view = progress.update(sample, now + seconds{1});
    EXPECT_EQ(view.rate, 100.0);
    EXPECT_EQ(view.eta, milliseconds{1000});
}

TEST(ProgressViews, SayWhenItDoesNotConverge) {
    Progress progress;
    const Time now{};
    progress.update(active(1000, 1000, 0), now);
    Snapshot sample = active(1000, 900, 100);
    sample.dirty_rate = 200;
    const ProgressView view = progress.update(sample, now + seconds{1});
    EXPECT_FALSE(view.eta);
    EXPECT_FALSE(view.converges);
}

TEST(ProgressViews, ForgetTheLastMigration) {
    Progress progress;
    const Time now{};
    progress.update(active(1000, 1000, 0), now);
    progress.update(active(1000, 500, 500), now + seconds{1});
    Snapshot end;
    end.status = "failed";
    EXPECT_FALSE(progress.update(end, now + seconds{2}).rate);
    EXPECT_FALSE(progress.update(active(1000, 400, 600), now + seconds{3}).rate);
}

Snapshot in_postcopy(std::uint64_t missing, std::uint64_t bytes, std::uint64_t requests) {
    Snapshot now = active(1000, 0, 5000);
    now.status = "postcopy-active";
    now.dirty_rate = 1e9; // of precopy; the source's RAM stands still now
    now.postcopy = PostcopyView{.requests = requests, .bytes = bytes, .missing = missing};
    return now;
}

TEST(PostcopyViews, HaveFaultsAndWhatIsFetched) {
    Progress progress;
    const Time now{};
    progress.update(active(1000, 500, 4000), now);
    Snapshot first = in_postcopy(800, 200, 10);
    first.postcopy->faults_per_second = 77;
    ProgressView view = progress.update(first, now + seconds{1});
    EXPECT_FALSE(view.rate) << "precopy counted something else";
    EXPECT_EQ(view.faults, 77.0) << "before the second sample: the monitor's figure";
    EXPECT_DOUBLE_EQ(view.percent.value_or(0), 20.0);
    view = progress.update(in_postcopy(600, 400, 60), now + seconds{2});
    EXPECT_EQ(view.rate, 200.0);
    EXPECT_EQ(view.faults, 50.0);
    EXPECT_EQ(view.eta, milliseconds{3000});
    EXPECT_TRUE(view.converges);
}

TEST(PostcopyViews, HaveNoRateWithoutAConnection) {
    Progress progress;
    const Time now{};
    progress.update(in_postcopy(800, 200, 10), now);
    progress.update(in_postcopy(600, 400, 60), now + seconds{1});
    Snapshot paused = in_postcopy(600, 400, 60);
    for (const char* status : {"postcopy-paused", "postcopy-recover-setup", "postcopy-recover"}) {
        paused.status = status;
        const ProgressView view = progress.update(paused, now + seconds{2});
        EXPECT_FALSE(view.rate || view.faults || view.eta) << status;
        EXPECT_DOUBLE_EQ(view.percent.value_or(0), 40.0);
    }
    EXPECT_FALSE(progress.update(in_postcopy(600, 400, 60), now + seconds{9}).rate) << "the pause is not averaged in";
    EXPECT_EQ(progress.update(in_postcopy(500, 500, 60), now + seconds{10}).rate, 100.0);
}

TEST(PostcopyViews, UseQemusOwnFiguresWhereThereAreNoOthers) {
    Progress progress;
    const Time now{};
    Snapshot sample = in_postcopy(0, 0, 0);
    sample.postcopy.reset();
    sample.remaining = 700;
    progress.update(sample, now);
    sample.transferred = *sample.transferred + 100;
    sample.remaining = 600;
    const ProgressView view = progress.update(sample, now + seconds{1});
    EXPECT_EQ(view.rate, 100.0);
    EXPECT_EQ(view.eta, milliseconds{6000});
    EXPECT_FALSE(view.faults);
}

} // namespace
} // namespace pageferry::cli
