// The real TCP transport, but for functions that a test replaces: what a transport that fails looks like from above the seam.
//
// Threads: as the transport's own. What the replacements count is global: one test at a time.
#pragma once

#include "transport/connection.h"

#include <atomic>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <utility>

namespace pageferry::engine::testing {

// How often open() of any transport made here was called.
inline std::atomic<int> opened{0};
inline const pf_transport* real_tcp = nullptr;

inline int fail(pf_error* error, pf_status status, const char* reason) {
    if (error != nullptr) {
        error->status = status;
        std::snprintf(error->reason, sizeof error->reason, "%s", reason);
    }
    return status;
}

// TCP with some of its functions changed; it lives as long as the real one.
inline transport::Transport changed_tcp(const transport::Transport& tcp, const std::function<void(pf_transport&)>& change) {
    struct Both {
        transport::Transport real;
        pf_transport table;
    };
    real_tcp = &tcp.abi();
    const auto both = std::make_shared<Both>(Both{.real = tcp, .table = tcp.abi()});
    both->table.open = [](const char* uri, const pf_options* options, pf_connection** connection, pf_error* error) {
        ++opened;
        return real_tcp->open(uri, options, connection, error);
    };
    change(both->table);
    return transport::Transport{std::shared_ptr<const pf_transport>{both, &both->table}};
}

template <pf_status Status>
void fails_to_open(pf_transport& table) {
    table.open = [](const char*, const pf_options*, pf_connection**, pf_error* error) -> int {
        ++opened;
        return fail(error, Status, "there is no such device");
    };
}
template <pf_status Status>
void fails_to_listen(pf_transport& table) {
    table.listen = [](const char*, const pf_options*, pf_listener**, pf_error* error) -> int {
        return fail(error, Status, "there is no device to listen on");
    };
}
template <pf_status Status>
void fails_to_connect(pf_transport& table) {
    table.connect = [](pf_connection*, int64_t, pf_progress progress, void* context, pf_error* error) -> int {
        progress(context, PF_PHASE_RESOLVING_ROUTE, "h");
        return fail(error, Status, "there is no route");
    };
}
template <pf_status Status>
void fails_to_add_memory(pf_transport& table) {
    table.add_memory = [](pf_connection*, const pf_memory_block*, size_t, pf_error* error) -> int {
        return fail(error, Status, "too little memory may be locked");
    };
}
template <pf_status Status>
void fails_to_accept(pf_transport& table) {
    table.accept = [](pf_listener*, int64_t, pf_connection**, pf_error*, pf_error* error) -> int {
        return fail(error, Status, "the device is gone");
    };
}
// Connects, and can send nothing: the hello does not come through.
template <pf_status Status>
void fails_to_send(pf_transport& table) {
    table.send = [](pf_connection*, const void*, size_t, int64_t, pf_error* error) -> int {
        return fail(error, Status, "the path is dead");
    };
}

// The peer hears all that is said to it, and its first answer does not come through.
template <pf_status Status>
void fails_to_receive(pf_transport& table) {
    table.receive = [](pf_connection* connection, void* buffer, size_t capacity, size_t* length, int64_t timeout_ms,
                       pf_error* error) -> int {
        const int status = real_tcp->receive(connection, buffer, capacity, length, timeout_ms, error);
        return status == PF_OK ? fail(error, Status, "the answer is lost") : status;
    };
}

} // namespace pageferry::engine::testing
