#include "tcp_fallback/lane.h"

#include <cerrno>

namespace pageferry::tcp {

Fault Lane::fault(int error, const char* operation) const {
    Error made;
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
