// Listeners that are not Pageferry, or another Pageferry: what connect() says of them.
#include "pair.h"

#include "rdma/handles.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>

#include <functional>
#include <thread>

namespace pageferry::rdma::test {
namespace {

// Answers the first request as it is told to, and keeps its id.
class OtherListener {
public:
    using Answer = std::function<void(rdma_cm_id& id)>;
    explicit OtherListener(Answer answer) : channel_(rdma_create_event_channel()), answer_(std::move(answer)) {
        rdma_cm_id* id = nullptr;
        EXPECT_EQ(rdma_create_id(channel_.get(), &id, nullptr, RDMA_PS_TCP), 0);
        id_.reset(id);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        ::inet_pton(AF_INET, "10.77.0.1", &address.sin_addr);
        EXPECT_EQ(rdma_bind_addr(id, reinterpret_cast<sockaddr*>(&address)), 0);
        EXPECT_EQ(rdma_listen(id, 8), 0);
        uri_ = "rdma:10.77.0.1:" + std::to_string(ntohs(rdma_get_src_port(id)));
        thread_ = std::thread{[this] { run(); }};
    }
    ~OtherListener() {
        thread_.join();
        pair_.reset();
        asked_.reset();
    }
    OtherListener(const OtherListener&) = delete;
    OtherListener& operator=(const OtherListener&) = delete;

    [[nodiscard]] const std::string& uri() const { return uri_; }

    // As any program would accept.
    void accept(rdma_cm_id& id, const void* said = nullptr, std::uint8_t length = 0) {
        ibv_qp_init_attr attributes{};
        attributes.qp_type = IBV_QPT_RC;
        attributes.cap.max_send_wr = attributes.cap.max_recv_wr = 1;
        attributes.cap.max_send_sge = attributes.cap.max_recv_sge = 1;
        EXPECT_EQ(rdma_create_qp(&id, nullptr, &attributes), 0);
        pair_.reset(&id);
        rdma_conn_param parameters{};
        parameters.private_data = said;
        parameters.private_data_len = length;
        EXPECT_EQ(rdma_accept(&id, &parameters), 0);
    }

private:
    void run() {
        pollfd watched{.fd = channel_->fd, .events = POLLIN, .revents = 0};
        if (::poll(&watched, 1, generous_ms) != 1) {
            ADD_FAILURE() << "nobody called";
            return;
        }
        rdma_cm_event* raw = nullptr;
        EXPECT_EQ(rdma_get_cm_event(channel_.get(), &raw), 0);
        const CmEvent event{raw};
        EXPECT_EQ(event->event, RDMA_CM_EVENT_CONNECT_REQUEST);
        asked_.reset(event->id);
        answer_(*event->id);
    }

    EventChannel channel_;
    CmId id_;
    CmId asked_;
    std::unique_ptr<rdma_cm_id, Release<rdma_destroy_qp>> pair_;
    const Answer answer_;
    std::string uri_;
    std::thread thread_;
};

Problem connect_to(const std::string& uri) {
    End caller;
    const pf_options given = options();
    Problem problem;
    EXPECT_EQ(api().open(uri.c_str(), &given, &caller.get, &problem), PF_OK);
    EXPECT_NE(api().connect(caller.get, generous_ms, nullptr, nullptr, &problem), PF_OK);
    EXPECT_EQ(problem.native == 0 || problem.native == 28, true) << problem.text();
    EXPECT_TRUE(std::string{problem.peer}.starts_with("10.77.0.1:")) << problem.text();
    EXPECT_EQ(problem.phase, static_cast<std::uint32_t>(PF_PHASE_CONNECTING)) << problem.text();
    Problem again;
    EXPECT_EQ(caller.send("x", generous_ms, &again), problem.status);
    EXPECT_STREQ(again.reason, problem.reason);
    return problem;
}

TEST_F(RdmaFaults, AVersionThatThePeerDoesNotSpeakIsToldInItsWords) {
    OtherListener listener{[](rdma_cm_id& id) {
        const VerdictBytes said = encode_verdict(PF_VERSION, "the caller speaks versions 1..1 of the RDMA handshake, we 7..9");
        EXPECT_EQ(rdma_reject(&id, said.bytes.data(), said.length), 0);
    }};
    const Problem problem = connect_to(listener.uri());
    EXPECT_EQ(problem.status, PF_VERSION) << problem.text();
    EXPECT_TRUE(problem.says("the peer refused: the caller speaks versions 1..1 of the RDMA handshake, we 7..9"))
        << problem.text();
}

TEST_F(RdmaFaults, AProgramThatRejectsWithoutAWordIsSaidToHave) {
    OtherListener listener{[](rdma_cm_id& id) { EXPECT_EQ(rdma_reject(&id, nullptr, 0), 0); }};
    const Problem problem = connect_to(listener.uri());
    EXPECT_EQ(problem.status, PF_REFUSED) << problem.text();
    EXPECT_TRUE(problem.says("rejected us, without saying why")) << problem.text();
}

// Another program takes anybody: that is no destination.
TEST_F(RdmaFaults, AProgramThatAcceptsWithoutOurWordsIsNoDestination) {
    OtherListener listener{[&](rdma_cm_id& id) { listener.accept(id); }};
    const Problem problem = connect_to(listener.uri());
    EXPECT_EQ(problem.status, PF_PROTOCOL) << problem.text();
    EXPECT_TRUE(problem.says("does not speak Pageferry's protocol")) << problem.text();
}

} // namespace
} // namespace pageferry::rdma::test
