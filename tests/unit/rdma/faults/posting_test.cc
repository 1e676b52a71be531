// Work requests that the device does not take.
#include "pair.h"

#include <cerrno>

namespace pageferry::rdma::test {
namespace {

ibv_qp_state state_of(ibv_qp* pair) {
    ibv_qp_attr attributes{};
    ibv_qp_init_attr made{};
    EXPECT_EQ(ibv_query_qp(pair, &attributes, IBV_QP_STATE, &made), 0);
    return attributes.qp_state;
}

void expect_post_error(const Problem& why, LaneKind kind, const char* operation = "ibv_post_send") {
    EXPECT_EQ(why.status, PF_RESOURCES) << why.text();
    EXPECT_EQ(why.native, ENOMEM);
    EXPECT_STREQ(why.operation, operation);
    EXPECT_EQ(why.lane, number_of(kind, 0, 1)) << why.text();
    EXPECT_TRUE(std::string{why.object}.starts_with(title_of(kind, 0) + " (rxe0 port 1")) << why.text();
    EXPECT_TRUE(std::string{why.peer}.starts_with("10.77.0.1:")) << why.text();
}

// What became of the requests before the bad one nobody knows: the queue pair must not go on.
TEST_F(RdmaFaults, ABatchTakenInPartPutsItsQueuePairInError) {
    Pair pair;
    pair.add_memory(2 * MiB);
    pair.push_a_page();
    const LaneEnd lane{.side = Side::caller, .kind = LaneKind::bulk, .index = 0};
    EXPECT_EQ(state_of(hooks().pair_of(lane)), IBV_QPS_RTS);
    hooks().refuse_send(lane, ENOMEM, 4);
    (void)pair.caller.push({0, 2 * page, 4 * page, 6 * page, 8 * page, 10 * page, 12 * page, 14 * page});
    const Problem why = pair.caller.ending();
    EXPECT_TRUE(hooks().all_injected());
    expect_post_error(why, LaneKind::bulk);
    EXPECT_EQ(state_of(hooks().pair_of(lane)), IBV_QPS_ERR);
    expect_all_answer(pair.caller, why);
    pair.caller.close();
    EXPECT_EQ(pair.callee.ending().status, PF_CLOSED);
    // From the bad one on nothing was sent.
    EXPECT_TRUE(pair.callee_ram->all('d', 6 * page, 2 * MiB - 6 * page));
}

TEST_F(RdmaFaults, AMessageThatIsNotTakenEndsTheConnection) {
    Pair pair;
    hooks().refuse_send({.side = Side::caller, .kind = LaneKind::control, .index = 0}, ENOMEM);
    Problem problem;
    EXPECT_EQ(pair.caller.send("lost", generous_ms, &problem), PF_RESOURCES);
    expect_post_error(problem, LaneKind::control);
    expect_all_answer(pair.caller, pair.caller.ending());
    EXPECT_EQ(pair.callee.receive(0), "again");
}

TEST_F(RdmaFaults, AnUrgentPullThatIsNotTakenEndsTheConnection) {
    Pair pair;
    pair.add_memory(2 * MiB);
    pair.push_a_page();
    hooks().refuse_send({.side = Side::caller, .kind = LaneKind::urgent, .index = 0}, ENOMEM);
    (void)pair.caller.pull(PF_PULL_URGENT, 0);
    const Problem why = pair.caller.ending();
    expect_post_error(why, LaneKind::urgent);
    expect_all_answer(pair.caller, why);
}

TEST_F(RdmaFaults, AServiceMessageThatIsNotTakenEndsTheConnection) {
    for (const Side side : {Side::caller, Side::callee}) { // who asks, and who answers
        Pair pair;
        pair.add_memory(2 * MiB);
        hooks().refuse_send({.side = side, .kind = LaneKind::service, .index = 0}, ENOMEM);
        EXPECT_EQ(pair.caller.push({0}), PF_OK);
        End& end = side == Side::caller ? pair.caller : pair.callee;
        const Problem why = end.ending();
        expect_post_error(why, LaneKind::service);
        end.close();
        EXPECT_EQ((side == Side::caller ? pair.callee : pair.caller).ending().status, PF_CLOSED);
    }
}

TEST_F(RdmaFaults, AFenceThatIsNotTakenEndsTheConnection) {
    Pair pair;
    pair.add_memory(2 * MiB);
    pair.push_a_page();
    ASSERT_EQ(pair.caller.push({0}), PF_OK);
    ASSERT_EQ(pair.caller.poll(), PF_OK);
    hooks().refuse_send({.side = Side::caller, .kind = LaneKind::bulk, .index = 0}, ENOMEM);
    Problem problem;
    EXPECT_EQ(pair.caller.fence(generous_ms, &problem), PF_RESOURCES);
    expect_post_error(problem, LaneKind::bulk);
}

TEST_F(RdmaFaults, ABufferThatIsNotTakenEndsTheConnection) {
    for (const LaneKind kind : {LaneKind::control, LaneKind::service, LaneKind::bulk}) {
        Pair pair;
        pair.add_memory(2 * MiB);
        hooks().refuse_receive({.side = Side::callee, .kind = kind, .index = 0}, ENOMEM);
        EXPECT_EQ(pair.caller.send("something"), PF_OK);
        EXPECT_EQ(pair.caller.push({0}), PF_OK);
        (void)pair.caller.fence(500); // its answer may not come any more
        const Problem why = pair.callee.ending();
        EXPECT_TRUE(hooks().all_injected());
        expect_post_error(why, kind, "ibv_post_recv");
        pair.callee.close();
        EXPECT_EQ(pair.caller.ending().status, PF_CLOSED);
    }
}

} // namespace
} // namespace pageferry::rdma::test
