// What the two threads of a data lane share: its socket, its name in errors, and whom to tell.
//
// Threads: immutable but for the counter; fail() from any.
#pragma once

#include "tcp_fallback/kit.h"
#include "transport/plugin/fault.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

namespace pageferry::tcp {

struct Lane {
    int socket = -1;          // blocking; the connection owns it
    std::uint32_t number = 0; // in errors: 0 control, 1.. bulk, then urgent
    std::size_t index = 0;    // in Work: 0.. bulk, then urgent
    bool urgent = false;
    std::string title; // "bulk lane 1"
    std::string peer;
    std::uint32_t dead_peer_ms = 0;
    std::atomic<std::uint64_t>* wire_bytes = nullptr; // sent, of the whole connection
    std::function<void(Fault)> fail;                  // ends the connection

    // What the kernel's answer means for the connection. errno 0: the peer closed.
    [[nodiscard]] Fault fault(int error, const char* operation) const;
    // The peer, or this side, broke the rules: the reason with this lane's name.
    [[nodiscard]] Fault fault(Error reason) const;
};

} // namespace pageferry::tcp
