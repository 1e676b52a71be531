// Every error a work completion can carry, on every lane: the connection ends with it, in words, and gives everything back.
#include "pair.h"

#include "rdma/work_completion.h"

#include <algorithm>
#include <tuple>

namespace pageferry::rdma::test {
namespace {

class RdmaCompletion : public RdmaFaults, public testing::WithParamInterface<std::tuple<int, LaneKind>> {
protected:
    // Work for that lane; false: it answered the error already.
    static void work(Pair& pair, LaneKind kind) {
        switch (kind) {
        case LaneKind::control: (void)pair.caller.send("something"); break;
        case LaneKind::urgent: (void)pair.caller.pull(PF_PULL_URGENT, 0); break;
        default: (void)pair.caller.push({0}); // registers first, by the service lane
        }
        // A push or pull that fails completes no more.
        if (kind != LaneKind::control) {
            (void)pair.caller.poll();
        }
    }
};

TEST_P(RdmaCompletion, EndsTheConnectionInWords) {
    const auto [number, kind] = GetParam();
    const auto status = static_cast<ibv_wc_status>(number);
    Pair pair;
    pair.add_memory(2 * MiB);
    const LaneEnd lane{.side = Side::caller, .kind = kind, .index = 0};
    hooks().spoil_completion(lane, status);
    work(pair, kind);
    const Problem why = pair.caller.ending();
    EXPECT_TRUE(hooks().all_injected());

    const std::uint32_t pair_number = hooks().pair_of(lane)->qp_num;
    ibv_wc completion{};
    completion.status = status;
    completion.vendor_err = Hooks::vendor_code;
    const Fault expected = fault_of(completion, {});
    EXPECT_EQ(why.status, static_cast<int>(expected.error.code)) << why.text();
    EXPECT_EQ(why.native, number);
    EXPECT_EQ(why.lane, number_of(kind, 0, 1)) << why.text();
    EXPECT_TRUE(why.says(title_of(kind, 0) + " (queue pair " + std::to_string(pair_number) + ", rxe0 port 1")) << why.text();
    EXPECT_TRUE(why.says(expected.error.reason)) << why.text();
    EXPECT_TRUE(why.says("vendor code " + std::to_string(Hooks::vendor_code))) << why.text();
    EXPECT_TRUE(std::string{why.peer}.starts_with("10.77.0.1:")) << why.text();
    expect_all_answer(pair.caller, why);

    pair.caller.close();
    const Problem peers = pair.callee.ending();
    EXPECT_EQ(peers.status, PF_CLOSED) << peers.text();
    expect_all_answer(pair.callee, peers);
}

INSTANTIATE_TEST_SUITE_P(Every, RdmaCompletion,
                         testing::Combine(testing::Range(static_cast<int>(IBV_WC_LOC_LEN_ERR), IBV_WC_TM_RNDV_INCOMPLETE + 1),
                                          testing::Values(LaneKind::control, LaneKind::service, LaneKind::bulk,
                                                          LaneKind::urgent)),
                         [](const auto& one) {
                             std::string name = name_of(static_cast<ibv_wc_status>(std::get<0>(one.param)));
                             name += "_" + title_of(std::get<1>(one.param), 0);
                             std::ranges::replace(name, ' ', '_');
                             return name;
                         });

TEST_F(RdmaFaults, ALaterCompletionOfTheSecondLaneIsNamedAsItsOwn) {
    Pair pair{2};
    pair.add_memory(2 * MiB);
    pair.push_a_page();
    const LaneEnd lane{.side = Side::caller, .kind = LaneKind::bulk, .index = 1};
    hooks().spoil_completion(lane, IBV_WC_RETRY_EXC_ERR, 2);
    // Idle lanes take turns by what they carry: two calls at once keep both busy.
    while (!hooks().all_injected()) {
        if (pair.caller.push({0, 2 * page}) != PF_OK || pair.caller.push({4 * page, 6 * page}) != PF_OK) {
            break;
        }
        for (int i = 0; i < 4 && pair.caller.poll() == PF_OK; ++i) {
        }
    }
    const Problem why = pair.caller.ending();
    EXPECT_EQ(why.status, PF_TIMED_OUT) << why.text();
    EXPECT_EQ(why.lane, 2U);
    EXPECT_TRUE(why.says("bulk lane 1 (queue pair " + std::to_string(hooks().pair_of(lane)->qp_num))) << why.text();
}

// A flushed request says only that its queue pair is in error; what put it there is told instead, when it shows in time.
TEST_F(RdmaFaults, AFlushLeavesTheWordToItsCause) {
    Pair pair;
    pair.add_memory(2 * MiB);
    pair.push_a_page();
    hooks().spoil_completion({.side = Side::caller, .kind = LaneKind::bulk, .index = 0}, IBV_WC_WR_FLUSH_ERR);
    hooks().spoil_completion({.side = Side::caller, .kind = LaneKind::urgent, .index = 0}, IBV_WC_REM_ACCESS_ERR);
    ASSERT_EQ(pair.caller.push({0}), PF_OK);
    ASSERT_EQ(pair.caller.pull(PF_PULL_URGENT, 0), PF_OK);
    EXPECT_EQ(pair.caller.poll(), PF_PERMISSION);
    const Problem why = pair.caller.ending();
    EXPECT_TRUE(hooks().all_injected());
    EXPECT_EQ(why.status, PF_PERMISSION) << why.text();
    EXPECT_EQ(why.lane, number_of(LaneKind::urgent, 0, 1));
    expect_all_answer(pair.caller, why);
}

// docs/decisions/rdma-lanes.md: the proof of a READ.
class RdmaMisread : public RdmaFaults, public testing::WithParamInterface<LaneKind> {};
INSTANTIATE_TEST_SUITE_P(Of, RdmaMisread, testing::Values(LaneKind::bulk, LaneKind::urgent),
                         [](const auto& one) { return one.param == LaneKind::bulk ? "bulk" : "urgent"; });

TEST_P(RdmaMisread, AReadThatIsSaidToBeDoneAndIsNotIsNotBelieved) {
    const auto kind = GetParam() == LaneKind::bulk ? PF_PULL_BULK : PF_PULL_URGENT;
    Pair pair;
    pair.add_memory(2 * MiB);
    ASSERT_EQ(pair.caller.pull(kind, 0), PF_OK);
    ASSERT_EQ(pair.caller.poll(), PF_OK);
    hooks().misread({.side = Side::caller, .kind = GetParam(), .index = 0});
    ASSERT_EQ(pair.caller.pull(kind, 4 * page), PF_OK);
    EXPECT_NE(pair.caller.poll(), PF_OK);
    EXPECT_TRUE(hooks().all_injected());
    const Problem why = pair.caller.ending();
    EXPECT_EQ(why.native, IBV_WC_WR_FLUSH_ERR) << why.text();
    expect_all_answer(pair.caller, why);
}

// The side that is waiting for what comes is told as well.
TEST_F(RdmaFaults, AReceiveThatFailsEndsItsSide) {
    Pair pair;
    hooks().spoil_completion({.side = Side::callee, .kind = LaneKind::control, .index = 0}, IBV_WC_LOC_LEN_ERR);
    ASSERT_EQ(pair.caller.send("something"), PF_OK);
    const Problem why = pair.callee.ending();
    EXPECT_EQ(why.status, PF_INTERNAL) << why.text();
    EXPECT_TRUE(why.says("IBV_WC_LOC_LEN_ERR")) << why.text();
    expect_all_answer(pair.callee, why);
    pair.callee.close();
    EXPECT_EQ(pair.caller.ending().status, PF_CLOSED);
}

// A fence is a receive on the callee's bulk lanes.
TEST_F(RdmaFaults, AFenceThatFailsIsNoFence) {
    Pair pair;
    pair.add_memory(2 * MiB);
    pair.push_a_page();
    hooks().spoil_completion({.side = Side::callee, .kind = LaneKind::bulk, .index = 0}, IBV_WC_GENERAL_ERR);
    ASSERT_EQ(pair.caller.push({0}), PF_OK);
    EXPECT_EQ(pair.caller.fence(500), PF_TIMED_OUT);
    const Problem why = pair.callee.ending();
    EXPECT_EQ(why.status, PF_IO) << why.text();
    EXPECT_EQ(why.lane, 1U);
    pair.callee.close();
    EXPECT_EQ(pair.caller.ending().status, PF_CLOSED);
    EXPECT_EQ(pair.caller.fence(), PF_CLOSED);
}

} // namespace
} // namespace pageferry::rdma::test
