// Small things done to sockets: waiting, options, names, event descriptors.
//
// Threads: any; no state.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "tcp_fallback/kit.h"
#include "transport/plugin/deadline.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace pageferry::tcp {

// Liveness by the kernel's own means, for TCP sockets: a peer that answers nothing for dead_peer_ms ends the socket with
// ETIMEDOUT, with data under way (TCP_USER_TIMEOUT) or without (keepalive, to the second). And no delay for small messages. Other
// sockets: nothing to do.
Result<void> set_options(int socket, std::uint32_t dead_peer_ms);

// "192.0.2.1:4444", "[::1]:4444", "unix:/path"; never fails.
std::string local_name(int socket);
std::string peer_name(int socket);

// What a wait-free transfer did.
struct Transfer {
    std::size_t bytes = 0;
    int error = 0;      // errno; 0: none. EAGAIN is no error: bytes is 0
    bool ended = false; // the peer closed (receiving)
};
Transfer send_now(int socket, std::span<const std::byte> bytes);
Transfer receive_now(int socket, std::span<std::byte> bytes);

} // namespace pageferry::tcp
