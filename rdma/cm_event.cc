#include "rdma/cm_event.h"

#include <cerrno>

namespace pageferry::rdma {

namespace {

// Reasons of an InfiniBand REJ message (InfiniBand Architecture Specification, volume 1, 12.6.7.2); the kernel's
// include/rdma/ib_cm.h has the same numbers.
enum : int {
    rej_no_qp = 1,
    rej_no_resources = 3,
    rej_timeout = 4,
    rej_invalid_service_id = 8,
    rej_stale_conn = 10,
    rej_invalid_gid = 13,
    rej_invalid_mtu = 26,
    rej_consumer_defined = 28,
};

Error error_of(ErrorCode code, const char* operation, const std::string& peer, int native, std::string reason,
               std::string remedy = {}) {
    Error error = make_error(code, operation, "RDMA connection manager", std::move(reason), std::move(remedy));
    error.peer = peer;
    error.native = native;
    return error;
}

Error rejected(const rdma_cm_event& event, const std::string& peer) {
    const rdma_conn_param& param = event.param.conn;
    if (const auto verdict =
            decode_verdict({static_cast<const std::byte*>(param.private_data), std::size_t{param.private_data_len}})) {
        const auto code = verdict->status == PF_VERSION ? ErrorCode::version : ErrorCode::refused;
        return error_of(code, "connect", peer, event.status, "the peer refused: " + verdict->text);
    }
    switch (event.status) {
    case rej_invalid_service_id:
    case -ECONNREFUSED: // iWARP
        return error_of(ErrorCode::refused, "connect", peer, event.status, "nobody listens on that port for RDMA",
                        "start the destination first, and give it an rdma: URI with this port");
    case rej_consumer_defined:
        return error_of(ErrorCode::refused, "connect", peer, event.status,
                        "the program that listens there rejected us, without saying why", "check that it is Pageferry");
    case rej_stale_conn:
        return error_of(ErrorCode::refused, "connect", peer, event.status,
                        "the peer holds a stale connection of the same numbers", "try again");
    case rej_no_qp:
    case rej_no_resources:
        return error_of(ErrorCode::resources, "connect", peer, event.status,
                        "the peer's device has no queue pair or no memory left");
    case rej_timeout:
        return error_of(ErrorCode::timed_out, "connect", peer, event.status, "the peer gave up waiting for our answer");
    case rej_invalid_gid:
    case rej_invalid_mtu:
        return error_of(ErrorCode::unreachable, "connect", peer, event.status,
                        "the peer's device does not take our address or MTU",
                        "check that both ends use the same RoCE version and MTU");
    default:
        return error_of(ErrorCode::refused, "connect", peer, event.status,
                        "the peer rejected the connection, reason " + std::to_string(event.status));
    }
}

} // namespace

std::string name_of(rdma_cm_event_type type) {
    return rdma_event_str(type);
}

Fault fault_of(const rdma_cm_event& event, const std::string& peer, std::uint32_t phase) {
    const auto fault = [&](Error error) { return Fault{.error = std::move(error), .lane = PF_LANE_NONE, .phase = phase}; };
    const std::string name = name_of(event.event);
    switch (event.event) {
    case RDMA_CM_EVENT_ADDR_ERROR:
        if (event.status == -ETIMEDOUT) {
            return fault(error_of(ErrorCode::unreachable, "resolve address", peer, event.status,
                                  "no host answers to that address on this network (" + name + ")",
                                  "check the address, the cable, and that ping reaches it"));
        }
        return fault(error_of(event.status == -ENODEV ? ErrorCode::not_found : ErrorCode::unreachable, "resolve address", peer,
                              event.status, errno_error(-event.status, {}).reason + " (" + name + ")",
                              "check that the route to the peer leads over a network interface with an RDMA device (rdma link)"));
    case RDMA_CM_EVENT_ROUTE_ERROR:
        return fault(error_of(event.status == -ETIMEDOUT ? ErrorCode::timed_out : ErrorCode::unreachable, "resolve route", peer,
                              event.status, "there is no path to the peer (" + name + ")",
                              "check the port's state and, on InfiniBand, the subnet manager"));
    case RDMA_CM_EVENT_UNREACHABLE:
        return fault(error_of(ErrorCode::unreachable, phase != 0 ? "connect" : "connection", peer, event.status,
                              "the peer does not answer (" + name + ")",
                              "check that UDP port 4791 is not blocked between the hosts, and that the link is up"));
    case RDMA_CM_EVENT_REJECTED: {
        Error error = rejected(event, peer);
        error.operation = phase != 0 ? "connect" : "connection";
        return fault(std::move(error));
    }
    case RDMA_CM_EVENT_CONNECT_ERROR:
        return fault(error_of(ErrorCode::io, "connect", peer, event.status, "establishing the connection failed (" + name + ")"));
    case RDMA_CM_EVENT_DISCONNECTED:
        return fault(error_of(ErrorCode::closed, phase != 0 ? "connect" : "connection", peer, event.status,
                              "the peer closed the connection (" + name + ")"));
    case RDMA_CM_EVENT_DEVICE_REMOVAL:
        return fault(error_of(ErrorCode::io, "connection", peer, event.status, "the RDMA device was removed (" + name + ")"));
    case RDMA_CM_EVENT_ADDR_CHANGE:
        return fault(error_of(ErrorCode::io, "connection", peer, event.status,
                              "the network moved this address to another interface (" + name + ")"));
    default: return fault(error_of(ErrorCode::protocol, "connect", peer, event.status, "unexpected event " + name));
    }
}

Fault call_fault(int error, const char* operation, const std::string& object, const std::string& peer, std::uint32_t phase) {
    std::string reason;
    std::string remedy;
    ErrorCode code = errno_error(error, operation).code;
    switch (error) {
    case ENODEV:
        code = ErrorCode::not_found;
        reason = "no RDMA device serves this address";
        remedy = "check with `rdma link` that a device is on the interface that has the address; loopback addresses have none";
        break;
    case ENETUNREACH:
    case EHOSTUNREACH:
        code = ErrorCode::unreachable;
        reason = "there is no route to the peer";
        remedy = "check the address and `ip route get`";
        break;
    case EADDRNOTAVAIL:
        code = ErrorCode::not_found;
        reason = "this host does not have that address";
        remedy = "give an address of this host, or 0 to listen on all";
        break;
    case EADDRINUSE:
        code = ErrorCode::in_use;
        reason = "the port is taken";
        remedy = "another process listens there: stop it, or choose another port (0: any free one)";
        break;
    case EACCES: remedy = "choose a port of 1024 or above, and check the rights on /dev/infiniband/rdma_cm and uverbs*"; break;
    default: break;
    }
    Error result = errno_error(error, operation, object, std::move(remedy));
    result.code = code;
    result.peer = peer;
    if (!reason.empty()) {
        result.reason = std::move(reason);
    }
    return Fault{.error = std::move(result), .lane = PF_LANE_NONE, .phase = phase};
}

} // namespace pageferry::rdma
