#include "tcp_fallback/lane.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>

namespace pageferry::tcp {

namespace {

// The kernel gives ETIMEDOUT to one system call only. A lane's other thread, and every later call, sees EPIPE or the end of the
// stream, as if the peer had closed: what the socket remembers tells the two apart.
bool fell_silent(int socket, std::uint32_t dead_peer_ms) {
    tcp_info info{};
    socklen_t length = sizeof info;
    return ::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 && info.tcpi_state == TCP_CLOSE &&
           info.tcpi_last_ack_recv >= dead_peer_ms - dead_peer_ms / 10;
}

} // namespace

Fault Lane::fault(int error, const char* operation) const {
    Error made;
    if ((error == 0 || error == EPIPE) && fell_silent(socket, dead_peer_ms)) {
        error = ETIMEDOUT;
    }
    switch (error) {
    case 0:
    case EPIPE:
    case ECONNRESET:
    case ECONNABORTED:
        made = make_error(ErrorCode::closed, operation, title,
                          error == ECONNRESET ? "the peer's host reset the connection" : "the peer closed the connection");
        break;
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EHOSTDOWN:
        // Not "timed out": that is what a call's own deadline is called, and the connection outlives it.
        made = make_error(ErrorCode::closed, operation, title,
                          "the peer answered nothing for " + std::to_string(dead_peer_ms) + " ms",
                          "check the peer's host and the network");
        break;
    case EFAULT:
        made = make_error(ErrorCode::resources, operation, title, "the guest's memory could not be reached",
                          "check that the file system of the memory backend (/dev/shm, hugetlbfs) is not full");
        break;
    default: made = errno_error(error, operation, title); break;
    }
    made.native = error;
    made.peer = peer;
    return Fault{.error = std::move(made), .lane = number};
}

Fault Lane::fault(Error reason) const {
    if (reason.object.empty()) {
        reason.object = title;
    } else {
        reason.object = title + ", " + reason.object;
    }
    reason.peer = peer;
    return Fault{.error = std::move(reason), .lane = number};
}

} // namespace pageferry::tcp
