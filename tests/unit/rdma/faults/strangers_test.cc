// Callers that are not Pageferry, or not the one that is waited for, by the connection manager itself: each is told why, and the
// listener goes on.
#include "pair.h"

#include "rdma/handles.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>

#include <atomic>
#include <cstring>
#include <thread>

namespace pageferry::rdma::test {
namespace {

using Bytes = std::vector<std::byte>;

Bytes bytes_of(const Request& request) {
    const auto said = encode(request);
    return {said.begin(), said.end()};
}

Request good_request() {
    Request request{.kind = LaneKind::control, .index = 0, .lanes = 1, .session = {}, .epoch = 1, .connection = 77};
    request.session.fill(0x5e);
    return request;
}

// What a program that says those bytes is answered.
struct Answer {
    rdma_cm_event_type event = RDMA_CM_EVENT_TIMEWAIT_EXIT;
    Bytes said;
    [[nodiscard]] Verdict verdict() const { return decode_verdict(said).value_or(Verdict{.status = -1, .text = {}}); }
};

class Stranger {
public:
    Stranger() : channel_(rdma_create_event_channel()) {
        rdma_cm_id* id = nullptr;
        EXPECT_EQ(rdma_create_id(channel_.get(), &id, nullptr, RDMA_PS_TCP), 0);
        id_.reset(id);
    }

    Answer call(std::uint16_t port, const Bytes& said) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port);
        ::inet_pton(AF_INET, "10.77.0.1", &address.sin_addr);
        EXPECT_EQ(rdma_resolve_addr(id_.get(), nullptr, reinterpret_cast<sockaddr*>(&address), 5000), 0);
        EXPECT_EQ(next().event, RDMA_CM_EVENT_ADDR_RESOLVED);
        EXPECT_EQ(rdma_resolve_route(id_.get(), 5000), 0);
        EXPECT_EQ(next().event, RDMA_CM_EVENT_ROUTE_RESOLVED);
        ibv_qp_init_attr attributes{};
        attributes.qp_type = IBV_QPT_RC;
        attributes.cap.max_send_wr = attributes.cap.max_recv_wr = 1;
        attributes.cap.max_send_sge = attributes.cap.max_recv_sge = 1;
        EXPECT_EQ(rdma_create_qp(id_.get(), nullptr, &attributes), 0) << std::strerror(errno);
        pair_.reset(id_.get());
        rdma_conn_param parameters{};
        parameters.private_data = said.empty() ? nullptr : said.data();
        parameters.private_data_len = static_cast<std::uint8_t>(said.size());
        parameters.retry_count = 6;
        EXPECT_EQ(rdma_connect(id_.get(), &parameters), 0) << std::strerror(errno);
        return next();
    }

    Answer next() {
        pollfd watched{.fd = channel_->fd, .events = POLLIN, .revents = 0};
        if (::poll(&watched, 1, generous_ms) != 1) {
            ADD_FAILURE() << "no answer";
            return {};
        }
        rdma_cm_event* raw = nullptr;
        EXPECT_EQ(rdma_get_cm_event(channel_.get(), &raw), 0);
        const CmEvent event{raw};
        const auto* const said = static_cast<const std::byte*>(event->param.conn.private_data);
        const bool has_data = event->event == RDMA_CM_EVENT_REJECTED || event->event == RDMA_CM_EVENT_ESTABLISHED;
        return {.event = event->event,
                .said = has_data && said != nullptr ? Bytes{said, said + event->param.conn.private_data_len} : Bytes{}};
    }

private:
    EventChannel channel_;
    CmId id_;
    std::unique_ptr<rdma_cm_id, Release<rdma_destroy_qp>> pair_;
};

// A listener whose accept() is under way, and what it tells of those it turned away.
class Waiting {
public:
    Waiting() : thread_([this] { run(); }) {}
    ~Waiting() { stop(); }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;

    Problem rejected() { // the first one
        stop();
        return first_;
    }
    Listener listener;

private:
    void run() {
        while (!stop_) {
            pf_connection* none = nullptr;
            Problem told;
            Problem error;
            EXPECT_EQ(api().accept(listener.get, 50, &none, &told, &error), PF_AGAIN) << error.text();
            if (told.status != PF_OK && first_.status == PF_OK) {
                first_ = told;
            }
        }
    }
    void stop() {
        if (thread_.joinable()) {
            std::this_thread::sleep_for(std::chrono::milliseconds{120}); // one more accept() tells of the latest
            stop_ = true;
            thread_.join();
        }
    }
    std::atomic<bool> stop_{false};
    Problem first_;
    std::thread thread_;
};

struct Case {
    const char* name;
    Bytes said;
    int status;
    const char* words;
};

class RdmaStranger : public RdmaFaults, public testing::WithParamInterface<Case> {};

TEST_P(RdmaStranger, IsToldWhyAndTheListenerGoesOn) {
    const Case& one = GetParam();
    Waiting waiting;
    {
        Stranger stranger;
        const Answer answer = stranger.call(waiting.listener.port(), one.said);
        EXPECT_EQ(answer.event, RDMA_CM_EVENT_REJECTED) << rdma_event_str(answer.event);
        EXPECT_EQ(answer.verdict().status, one.status);
        EXPECT_NE(answer.verdict().text.find(one.words), std::string::npos) << answer.verdict().text;
    }
    const Problem rejected = waiting.rejected();
    EXPECT_EQ(rejected.status, one.status) << rejected.text();
    EXPECT_TRUE(rejected.says(one.words)) << rejected.text();
    EXPECT_TRUE(std::string{rejected.peer}.starts_with("10.77.0.1:")) << rejected.text();
    Pair pair{waiting.listener, options()};
    EXPECT_EQ(pair.caller.send("hello"), PF_OK);
    EXPECT_EQ(pair.callee.receive(), "hello");
}

Bytes request_with(void (*change)(Request& request)) {
    Request request = good_request();
    change(request);
    return bytes_of(request);
}

INSTANTIATE_TEST_SUITE_P(
    Each, RdmaStranger,
    testing::Values(
        Case{"NewerVersions", request_with([](Request& r) { r.lowest = 7, r.highest = 9; }), PF_VERSION, "versions 7..9"},
        Case{"NoPrivateData", {}, PF_PROTOCOL, "does not speak Pageferry's protocol"},
        Case{"Garbage", Bytes(56, std::byte{0xa5}), PF_PROTOCOL, "does not speak Pageferry's protocol"},
        Case{"TooShort", Bytes(4, std::byte{'P'}), PF_PROTOCOL, "does not speak Pageferry's protocol"},
        Case{"ContradictsItself", request_with([](Request& r) { r.lanes = 0; }), PF_PROTOCOL, "contradicts itself"},
        Case{"AnotherSession", request_with([](Request& r) { r.session.fill(1); }), PF_REFUSED, "another migration session"},
        Case{"AnEarlierEpoch", request_with([](Request& r) { r.epoch = 0; }), PF_REFUSED, "number 1 or a later one"},
        Case{"ALaneWithoutConnection", request_with([](Request& r) { r.kind = LaneKind::bulk; }), PF_REFUSED,
             "a lane of a connection that is not being made"}),
    [](const auto& one) { return one.param.name; });

// A caller that says the right words and then nothing more holds up nobody.
TEST_F(RdmaFaults, ACallerThatStopsHalfWayHoldsUpNobody) {
    Waiting waiting;
    Stranger first;
    const Answer answer = first.call(waiting.listener.port(), bytes_of(good_request()));
    EXPECT_EQ(answer.event, RDMA_CM_EVENT_ESTABLISHED) << rdma_event_str(answer.event);
    EXPECT_EQ(answer.verdict().status, PF_OK);
    Stranger again;
    const Answer twice = again.call(waiting.listener.port(), bytes_of(good_request()));
    EXPECT_EQ(twice.event, RDMA_CM_EVENT_REJECTED);
    EXPECT_NE(twice.verdict().text.find("being made already"), std::string::npos) << twice.verdict().text;
    EXPECT_EQ(waiting.rejected().status, PF_REFUSED);
    Pair pair{waiting.listener, options()};
    EXPECT_EQ(pair.callee.send("hello"), PF_OK);
    EXPECT_EQ(pair.caller.receive(), "hello");
}

// And is gone when its time is over.
TEST_F(RdmaFaults, ACallerThatStopsHalfWayIsTurnedAwayInTime) {
    pf_options short_time = options();
    short_time.handshake_ms = 1000;
    Listener listener{short_time};
    Stranger stranger;
    Problem told;
    std::thread accepting{[&] {
        pf_connection* none = nullptr;
        while (api().accept(listener.get, 100, &none, &told, nullptr) == PF_AGAIN && told.status == PF_OK) {
        }
    }};
    EXPECT_EQ(stranger.call(listener.port(), bytes_of(good_request())).event, RDMA_CM_EVENT_ESTABLISHED);
    EXPECT_EQ(stranger.next().event, RDMA_CM_EVENT_DISCONNECTED);
    accepting.join();
    EXPECT_EQ(told.status, PF_TIMED_OUT) << told.text();
    EXPECT_TRUE(told.says("did not finish its handshake")) << told.text();
}

} // namespace
} // namespace pageferry::rdma::test
