// close() while the kernel does not let go of queue pairs.
#include "pair.h"

#include <infiniband/verbs.h>

namespace pageferry::rdma::test {
namespace {

// Without a word of when: it comes back although nothing is released, and what comes after it works.
TEST_F(RdmaFaults, CloseDoesNotWaitForQueuePairs) {
    const Listener listener;
    Pair pair{listener, options()};
    pair.add_memory(4 * MiB);
    pair.push_a_page();
    ASSERT_EQ(pair.callee.pull(PF_PULL_URGENT, 2 * MiB), PF_OK);
    ASSERT_EQ(pair.callee.poll(), PF_OK);
    ASSERT_EQ(pair.caller.push({page, 3 * page}), PF_OK); // perhaps under way still
    ibv_qp* const old = hooks().pair_of({.side = Side::callee, .kind = LaneKind::bulk, .index = 0});

    hooks().hold_destroying();
    pair.callee.close();
    pair.caller.close();
    EXPECT_TRUE(hooks().destroying_is_held());
    ibv_qp_attr attributes{};
    ibv_qp_init_attr made{};
    ASSERT_EQ(ibv_query_qp(old, &attributes, IBV_QP_STATE, &made), 0) << "it is still there";
    EXPECT_EQ(attributes.qp_state, IBV_QPS_RESET) << "and carries nothing";
    {
        const Pair next{listener, options()};
        EXPECT_NE(next.caller.get, nullptr);
        EXPECT_NE(next.callee.get, nullptr);
    }
    hooks().release_destroying();
}

} // namespace
} // namespace pageferry::rdma::test
