// Every work completion status in words.
#include "rdma/work_completion.h"

#include <gtest/gtest.h>

#include <set>

namespace pageferry::rdma {
namespace {

constexpr int last_status = IBV_WC_TM_RNDV_INCOMPLETE;

class RdmaWorkCompletion : public testing::TestWithParam<int> {
protected:
    static ibv_wc completion() {
        ibv_wc made{};
        made.wr_id = 42;
        made.status = static_cast<ibv_wc_status>(GetParam());
        made.vendor_err = 0x81;
        made.qp_num = 1234;
        return made;
    }
    const LaneName lane_{
        .title = "bulk lane 2", .number = 3, .device = "rxe0 port 1, GID ::ffff:10.77.0.1", .peer = "10.77.0.2:4444"};
};

TEST_P(RdmaWorkCompletion, NamesLaneQueuePairStatusAndVendorCode) {
    const Fault fault = fault_of(completion(), lane_);
    EXPECT_NE(fault.error.code, ErrorCode::ok);
    EXPECT_NE(fault.error.code, ErrorCode::again);
    EXPECT_EQ(fault.lane, 3U);
    EXPECT_EQ(fault.phase, 0U);
    EXPECT_EQ(fault.error.native, GetParam());
    EXPECT_EQ(fault.error.peer, "10.77.0.2:4444");
    EXPECT_EQ(fault.error.operation, "work completion");
    EXPECT_EQ(fault.error.object, "bulk lane 2 (queue pair 1234, rxe0 port 1, GID ::ffff:10.77.0.1)");
    const std::string name = name_of(static_cast<ibv_wc_status>(GetParam()));
    EXPECT_TRUE(name.starts_with("IBV_WC_")) << name;
    EXPECT_NE(fault.error.reason.find("(" + name + ", vendor code 129)"), std::string::npos) << fault.error.reason;
}

INSTANTIATE_TEST_SUITE_P(Every, RdmaWorkCompletion, testing::Range(1, last_status + 1),
                         [](const auto& one) { return std::string{name_of(static_cast<ibv_wc_status>(one.param))}; });

TEST(RdmaWorkCompletionNames, AreAllDifferent) {
    std::set<std::string> names;
    for (int status = 0; status <= last_status; ++status) {
        EXPECT_TRUE(names.insert(name_of(static_cast<ibv_wc_status>(status))).second) << status;
    }
}

ErrorCode code_of(ibv_wc_status status) {
    ibv_wc completion{};
    completion.status = status;
    return fault_of(completion, {}).error.code;
}

TEST(RdmaWorkCompletionCodes, SayWhoseFaultItIs) {
    EXPECT_EQ(code_of(IBV_WC_RETRY_EXC_ERR), ErrorCode::timed_out);
    EXPECT_EQ(code_of(IBV_WC_RNR_RETRY_EXC_ERR), ErrorCode::timed_out);
    EXPECT_EQ(code_of(IBV_WC_RESP_TIMEOUT_ERR), ErrorCode::timed_out);
    EXPECT_EQ(code_of(IBV_WC_REM_ACCESS_ERR), ErrorCode::permission);
    EXPECT_EQ(code_of(IBV_WC_REM_INV_REQ_ERR), ErrorCode::protocol);
    EXPECT_EQ(code_of(IBV_WC_REM_ABORT_ERR), ErrorCode::closed);
    EXPECT_EQ(code_of(IBV_WC_WR_FLUSH_ERR), ErrorCode::closed);
    EXPECT_EQ(code_of(IBV_WC_LOC_PROT_ERR), ErrorCode::internal);
    EXPECT_EQ(code_of(IBV_WC_FATAL_ERR), ErrorCode::io);
}

TEST(RdmaWorkCompletionCodes, ALinkThatIsGoneComesWithARemedy) {
    ibv_wc completion{};
    completion.status = IBV_WC_RETRY_EXC_ERR;
    EXPECT_NE(fault_of(completion, {}).error.remedy.find("4791"), std::string::npos);
}

TEST(RdmaWorkCompletionCodes, OnlyAFlushIsAConsequence) {
    for (int status = 1; status <= last_status; ++status) {
        EXPECT_EQ(is_consequence(static_cast<ibv_wc_status>(status)), status == IBV_WC_WR_FLUSH_ERR) << status;
    }
}

} // namespace
} // namespace pageferry::rdma
