// The connection manager's events and rejections, each by its name, with what a person can do.
#include "rdma/cm_event.h"

#include <gtest/gtest.h>

#include <array>
#include <cerrno>

namespace pageferry::rdma {
namespace {

const std::string peer = "10.77.0.2:4444";

rdma_cm_event event_of(rdma_cm_event_type type, int status = 0) {
    rdma_cm_event event{};
    event.event = type;
    event.status = status;
    return event;
}

// What an event in place of the awaited one becomes.
struct Expected {
    rdma_cm_event_type type;
    int status;
    ErrorCode code;
    const char* operation; // during connect()
    bool remedy;
};

class RdmaCmEvent : public testing::TestWithParam<Expected> {};

TEST_P(RdmaCmEvent, IsNamed) {
    const Expected& expected = GetParam();
    const rdma_cm_event event = event_of(expected.type, expected.status);
    const Fault fault = fault_of(event, peer, PF_PHASE_CONNECTING);
    EXPECT_EQ(fault.error.code, expected.code) << fault.error.to_string();
    EXPECT_EQ(fault.error.operation, expected.operation);
    EXPECT_EQ(fault.error.peer, peer);
    EXPECT_EQ(fault.error.native, expected.status);
    EXPECT_EQ(fault.phase, static_cast<std::uint32_t>(PF_PHASE_CONNECTING));
    EXPECT_EQ(fault.lane, PF_LANE_NONE);
    EXPECT_EQ(!fault.error.remedy.empty(), expected.remedy) << fault.error.remedy;
    EXPECT_NE(fault.error.reason.find(name_of(expected.type)), std::string::npos) << fault.error.reason;
    EXPECT_EQ(fault_of(event, peer, 0).phase, 0U);
}

INSTANTIATE_TEST_SUITE_P(
    Each, RdmaCmEvent,
    testing::Values(Expected{RDMA_CM_EVENT_ADDR_ERROR, -ETIMEDOUT, ErrorCode::unreachable, "resolve address", true},
                    Expected{RDMA_CM_EVENT_ADDR_ERROR, -ENODEV, ErrorCode::not_found, "resolve address", true},
                    Expected{RDMA_CM_EVENT_ADDR_ERROR, -EHOSTUNREACH, ErrorCode::unreachable, "resolve address", true},
                    Expected{RDMA_CM_EVENT_ROUTE_ERROR, -ETIMEDOUT, ErrorCode::timed_out, "resolve route", true},
                    Expected{RDMA_CM_EVENT_ROUTE_ERROR, -EINVAL, ErrorCode::unreachable, "resolve route", true},
                    Expected{RDMA_CM_EVENT_UNREACHABLE, -ETIMEDOUT, ErrorCode::unreachable, "connect", true},
                    Expected{RDMA_CM_EVENT_CONNECT_ERROR, -EINVAL, ErrorCode::io, "connect", false},
                    Expected{RDMA_CM_EVENT_DISCONNECTED, 0, ErrorCode::closed, "connect", false},
                    Expected{RDMA_CM_EVENT_DEVICE_REMOVAL, 0, ErrorCode::io, "connection", false},
                    Expected{RDMA_CM_EVENT_ADDR_CHANGE, 0, ErrorCode::io, "connection", false},
                    Expected{RDMA_CM_EVENT_CONNECT_RESPONSE, 0, ErrorCode::protocol, "connect", false},
                    Expected{RDMA_CM_EVENT_CONNECT_REQUEST, 0, ErrorCode::protocol, "connect", false},
                    Expected{RDMA_CM_EVENT_ESTABLISHED, 0, ErrorCode::protocol, "connect", false},
                    Expected{RDMA_CM_EVENT_TIMEWAIT_EXIT, 0, ErrorCode::protocol, "connect", false},
                    Expected{RDMA_CM_EVENT_ADDR_RESOLVED, 0, ErrorCode::protocol, "connect", false},
                    Expected{RDMA_CM_EVENT_ROUTE_RESOLVED, 0, ErrorCode::protocol, "connect", false},
                    Expected{RDMA_CM_EVENT_MULTICAST_JOIN, 0, ErrorCode::protocol, "connect", false},
                    Expected{RDMA_CM_EVENT_MULTICAST_ERROR, -EINVAL, ErrorCode::protocol, "connect", false}),
    [](const auto& one) { return name_of(one.param.type) + "_" + std::to_string(-one.param.status); });

TEST(RdmaCmEvents, OnAnEstablishedConnectionAreItsOwn) {
    for (const auto type : {RDMA_CM_EVENT_UNREACHABLE, RDMA_CM_EVENT_DISCONNECTED, RDMA_CM_EVENT_REJECTED}) {
        EXPECT_EQ(fault_of(event_of(type), peer, 0).error.operation, "connection");
    }
}

Error rejected(int status, std::span<const std::byte> said = {}) {
    rdma_cm_event event = event_of(RDMA_CM_EVENT_REJECTED, status);
    event.param.conn.private_data = said.data();
    event.param.conn.private_data_len = static_cast<std::uint8_t>(said.size());
    return fault_of(event, peer, PF_PHASE_CONNECTING).error;
}

TEST(RdmaRejection, WithAVerdictSaysItsWords) {
    const VerdictBytes version = encode_verdict(PF_VERSION, "we speak 1..1");
    EXPECT_EQ(rejected(28, std::span{version.bytes}.first(version.length)).code, ErrorCode::version);
    EXPECT_EQ(rejected(28, version.bytes).reason, "the peer refused: we speak 1..1");
    const VerdictBytes session = encode_verdict(PF_REFUSED, "another session");
    EXPECT_EQ(rejected(28, session.bytes).code, ErrorCode::refused);
    EXPECT_EQ(rejected(28, session.bytes).reason, "the peer refused: another session");
    EXPECT_EQ(rejected(28, session.bytes).native, 28);
}

TEST(RdmaRejection, OfAnyReasonIsInWords) {
    for (int reason = 0; reason <= 33; ++reason) {
        const Error error = rejected(reason);
        EXPECT_EQ(error.operation, "connect");
        EXPECT_EQ(error.peer, peer);
        EXPECT_EQ(error.native, reason);
        EXPECT_FALSE(error.reason.empty());
        EXPECT_EQ(error.code == ErrorCode::ok || error.code == ErrorCode::again, false);
    }
    EXPECT_NE(rejected(33).reason.find("33"), std::string::npos) << "one that is not known is given by its number";
}

TEST(RdmaRejection, ThatPeopleMeetSaysWhatToDo) {
    const Error nobody = rejected(8);
    EXPECT_EQ(nobody.code, ErrorCode::refused);
    EXPECT_NE(nobody.reason.find("nobody listens"), std::string::npos);
    EXPECT_FALSE(nobody.remedy.empty());
    EXPECT_EQ(rejected(-ECONNREFUSED).reason, nobody.reason) << "as iWARP says it";
    const Error silent = rejected(28);
    EXPECT_EQ(silent.code, ErrorCode::refused);
    EXPECT_NE(silent.remedy.find("Pageferry"), std::string::npos);
    EXPECT_EQ(rejected(10).remedy, "try again");
    EXPECT_EQ(rejected(1).code, ErrorCode::resources);
    EXPECT_EQ(rejected(3).code, ErrorCode::resources);
    EXPECT_EQ(rejected(4).code, ErrorCode::timed_out);
    EXPECT_EQ(rejected(13).code, ErrorCode::unreachable);
    EXPECT_NE(rejected(26).remedy.find("MTU"), std::string::npos);
}

TEST(RdmaRejection, WithAStrangersBytesIsNotTakenForAVerdict) {
    const std::array<std::byte, 148> zeros{};
    EXPECT_NE(rejected(28, zeros).reason.find("without saying why"), std::string::npos);
}

TEST(RdmaCall, ThatFailsSaysWhatToDo) {
    const auto error_of = [](int number) { return call_fault(number, "listen", "rdma:10.77.0.9:1", peer, 0).error; };
    EXPECT_EQ(error_of(ENODEV).code, ErrorCode::not_found);
    EXPECT_NE(error_of(ENODEV).remedy.find("rdma link"), std::string::npos);
    EXPECT_EQ(error_of(EADDRNOTAVAIL).code, ErrorCode::not_found);
    EXPECT_EQ(error_of(EADDRINUSE).code, ErrorCode::in_use);
    EXPECT_EQ(error_of(ENETUNREACH).code, ErrorCode::unreachable);
    EXPECT_EQ(error_of(EHOSTUNREACH).code, ErrorCode::unreachable);
    EXPECT_EQ(error_of(EACCES).code, ErrorCode::permission);
    for (const int number : {ENODEV, EADDRNOTAVAIL, EADDRINUSE, ENETUNREACH, EHOSTUNREACH, EACCES}) {
        EXPECT_FALSE(error_of(number).remedy.empty()) << number;
        EXPECT_FALSE(error_of(number).reason.empty()) << number;
        EXPECT_EQ(error_of(number).native, number);
        EXPECT_EQ(error_of(number).operation, "listen");
        EXPECT_EQ(error_of(number).object, "rdma:10.77.0.9:1");
        EXPECT_EQ(error_of(number).peer, peer);
    }
    EXPECT_EQ(error_of(ENOMEM).code, ErrorCode::resources);
    EXPECT_EQ(call_fault(EIO, "resolve route", "x", peer, PF_PHASE_RESOLVING_ROUTE).phase,
              static_cast<std::uint32_t>(PF_PHASE_RESOLVING_ROUTE));
}

} // namespace
} // namespace pageferry::rdma
