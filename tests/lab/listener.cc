// lab-listener never-accept|reject tcp|rdma ADDRESS PORT
//
// A peer that is there and is of no use: it listens and takes no connection (never-accept), or turns each one away (reject). Says
// "listening" once it listens, and goes on until it is killed. For tests in the lab. One thread.
#include <netdb.h>
#include <rdma/rdma_cma.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <string_view>

namespace {

int failed(const char* what) {
    std::perror(what);
    return 1;
}

int ready() {
    std::puts("listening");
    return std::fflush(stdout);
}

addrinfo* resolved(const char* address, const char* port) {
    addrinfo hints{};
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (const int code = ::getaddrinfo(address, port, &hints, &found); code != 0) {
        std::fprintf(stderr, "%s: %s\n", address, ::gai_strerror(code));
        return nullptr;
    }
    return found; // for as long as the program lives
}

int tcp(const addrinfo& where, bool reject) {
    const int listener = ::socket(where.ai_family, where.ai_socktype | SOCK_CLOEXEC, 0);
    const int yes = 1;
    if (listener < 0 || ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
        ::bind(listener, where.ai_addr, where.ai_addrlen) != 0 || ::listen(listener, 16) != 0) {
        return failed("listen");
    }
    ready();
    while (reject) {
        if (const int peer = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC); peer >= 0) {
            ::close(peer);
        }
    }
    ::pause();
    return 0;
}

int rdma(const addrinfo& where, bool reject) {
    rdma_event_channel* events = ::rdma_create_event_channel();
    rdma_cm_id* listener = nullptr;
    if (events == nullptr || ::rdma_create_id(events, &listener, nullptr, RDMA_PS_TCP) != 0 ||
        ::rdma_bind_addr(listener, where.ai_addr) != 0 || ::rdma_listen(listener, 16) != 0) {
        return failed("rdma_listen");
    }
    ready();
    rdma_cm_event* event = nullptr;
    while (reject && ::rdma_get_cm_event(events, &event) == 0) {
        rdma_cm_id* peer = event->event == RDMA_CM_EVENT_CONNECT_REQUEST ? event->id : nullptr;
        ::rdma_ack_cm_event(event);
        if (peer != nullptr) {
            ::rdma_reject(peer, "no", 3);
            ::rdma_destroy_id(peer);
        }
    }
    ::pause(); // never-accept: what comes is not even looked at
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    if (argc != 5) {
        std::fputs("usage: lab-listener never-accept|reject tcp|rdma ADDRESS PORT\n", stderr);
        return 2;
    }
    const addrinfo* where = resolved(argv[3], argv[4]);
    if (where == nullptr) {
        return 2;
    }
    const bool reject = std::string_view{argv[1]} == "reject";
    return std::string_view{argv[2]} == "rdma" ? rdma(*where, reject) : tcp(*where, reject);
}
