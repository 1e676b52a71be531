// What the device tells by itself: it ends the connection with the event's name, or is told when the connection ends.
#include "pair.h"

#include <cerrno>
#include <optional>

namespace pageferry::rdma::test {
namespace {

const LaneEnd urgent{.side = Side::caller, .kind = LaneKind::urgent, .index = 0};

class RdmaDeviceEvents : public RdmaFaults {
protected:
    void SetUp() override {
        RdmaFaults::SetUp();
        if (!IsSkipped()) {
            events_.emplace(context());
            pair_.emplace();
            pair_->add_memory(2 * MiB);
            pair_->push_a_page();
        }
    }
    void TearDown() override {
        pair_.reset();
        events_.reset();
        RdmaFaults::TearDown();
    }
    static ibv_context* context() { // the one of all connections of this process
        const Pair pair;
        return hooks().pair_of(urgent)->context;
    }
    void tell(ibv_event_type type, std::uint8_t port = 1) {
        ibv_async_event event{};
        event.event_type = type;
        event.element.port_num = port;
        events_->tell(event);
    }
    void tell_of_the_urgent_pair(ibv_event_type type) {
        ibv_async_event event{};
        event.event_type = type;
        event.element.qp = hooks().pair_of(urgent);
        events_->tell(event);
    }
    void expect_alive() {
        EXPECT_EQ(pair_->caller.send("alive"), PF_OK);
        EXPECT_EQ(pair_->callee.receive(), "alive");
        pair_->push_a_page();
    }
    // Events are told in order: one that ends the connection shows that those before it were heard.
    Problem end_of_caller() {
        hooks().spoil_completion({.side = Side::caller, .kind = LaneKind::bulk, .index = 0}, IBV_WC_REM_ABORT_ERR);
        EXPECT_EQ(pair_->caller.push({0}), PF_OK);
        (void)pair_->caller.poll();
        return pair_->caller.ending();
    }

    std::optional<Hooks::DeviceEvents> events_;
    std::optional<Pair> pair_;
};

struct QueuePairEvent {
    ibv_event_type type;
    int status;
};

TEST_F(RdmaDeviceEvents, ThatEndAQueuePairNameItsLane) {
    for (const auto& [type, status] :
         {QueuePairEvent{IBV_EVENT_QP_FATAL, PF_IO}, QueuePairEvent{IBV_EVENT_QP_REQ_ERR, PF_PROTOCOL},
          QueuePairEvent{IBV_EVENT_QP_ACCESS_ERR, PF_PERMISSION}}) {
        tell_of_the_urgent_pair(type);
        const Problem why = pair_->caller.ending();
        EXPECT_EQ(why.status, status) << why.text();
        EXPECT_EQ(why.lane, number_of(LaneKind::urgent, 0, 1));
        EXPECT_TRUE(why.says("urgent lane (rxe0 port 1")) << why.text();
        EXPECT_TRUE(why.says("IBV_EVENT_QP_")) << why.text();
        expect_all_answer(pair_->caller, why);
        pair_->caller.close();
        EXPECT_EQ(pair_->callee.ending().status, PF_CLOSED) << "an event of the peer's queue pair is not of this one's";
        pair_.emplace();
        pair_->add_memory(2 * MiB);
    }
}

TEST_F(RdmaDeviceEvents, OfADeviceThatFailsEndAllItsConnections) {
    tell(IBV_EVENT_DEVICE_FATAL);
    for (End* const end : {&pair_->caller, &pair_->callee}) {
        const Problem why = end->ending();
        EXPECT_EQ(why.status, PF_IO) << why.text();
        EXPECT_TRUE(why.says("IBV_EVENT_DEVICE_FATAL")) << why.text();
        EXPECT_TRUE(why.says("rxe0 port 1")) << why.text();
        EXPECT_NE(std::string{why.remedy}, "");
        expect_all_answer(*end, why);
    }
}

TEST_F(RdmaDeviceEvents, OfACompletionQueueEndItsConnectionAlone) {
    ibv_async_event event{};
    event.event_type = IBV_EVENT_CQ_ERR;
    event.element.cq = hooks().pair_of(urgent)->send_cq;
    events_->tell(event);
    const Problem why = pair_->caller.ending();
    EXPECT_EQ(why.status, PF_IO) << why.text();
    EXPECT_TRUE(why.says("IBV_EVENT_CQ_ERR")) << why.text();
    pair_->caller.close();
    EXPECT_EQ(pair_->callee.ending().status, PF_CLOSED);
}

TEST_F(RdmaDeviceEvents, OfAPortThatIsDownAreNoEndButItsExplanation) {
    tell(IBV_EVENT_PORT_ERR);
    expect_alive();
    const Problem why = end_of_caller();
    EXPECT_EQ(why.status, PF_UNREACHABLE) << why.text();
    EXPECT_TRUE(why.says("IBV_WC_REM_ABORT_ERR")) << why.text();
    EXPECT_TRUE(why.says("the port of the RDMA device is down (IBV_EVENT_PORT_ERR)")) << why.text();
    EXPECT_TRUE(why.says("ip link")) << why.text();
}

TEST_F(RdmaDeviceEvents, OfAPortThatCameBackExplainNothing) {
    tell(IBV_EVENT_PORT_ERR, 2); // not ours
    tell(IBV_EVENT_PORT_ERR);
    tell(IBV_EVENT_PORT_ACTIVE);
    tell(IBV_EVENT_PATH_MIG); // of no interest
    expect_alive();
    const Problem why = end_of_caller();
    EXPECT_EQ(why.status, PF_CLOSED) << why.text();
    EXPECT_FALSE(why.says("is down")) << why.text();
}

TEST_F(RdmaDeviceEvents, OfAddressesAreToldWhenTheConnectionEnds) {
    tell(IBV_EVENT_GID_CHANGE);
    tell(IBV_EVENT_PKEY_CHANGE);
    tell(IBV_EVENT_LID_CHANGE);
    expect_alive();
    const Problem why = end_of_caller();
    EXPECT_EQ(why.status, PF_CLOSED) << why.text();
    EXPECT_TRUE(why.says("seen before: IBV_EVENT_GID_CHANGE, IBV_EVENT_PKEY_CHANGE, IBV_EVENT_LID_CHANGE")) << why.text();
}

// Without notifications the service thread would sleep through everything.
TEST_F(RdmaFaults, AQueueThatCannotBeArmedEndsTheConnection) {
    Pair pair;
    pair.add_memory(2 * MiB);
    hooks().refuse_notification({.side = Side::caller, .kind = LaneKind::service, .index = 0}, EIO);
    (void)pair.caller.push({0});
    const Problem why = pair.caller.ending();
    EXPECT_EQ(why.status, PF_IO) << why.text();
    EXPECT_STREQ(why.operation, "ibv_req_notify_cq");
    expect_all_answer(pair.caller, why);
    hooks().reset();
}

} // namespace
} // namespace pageferry::rdma::test
