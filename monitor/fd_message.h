// recvmsg and sendmsg with descriptors (SCM_RIGHTS).
//
// Pure system calls; any thread. Never block, never raise SIGPIPE.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

namespace pageferry::monitor {

struct Received {
    std::size_t bytes = 0; // 0: the peer sends no more
    std::vector<Fd> fds;   // close-on-exec
};

// again: nothing there now. Any other error: the stream is broken.
Result<Received> receive_with_fds(int socket, std::span<char> buffer);

// How many bytes the kernel took; with the first of them went all descriptors. again: none now. Descriptors that the kernel
// refuses to carry (too many in flight) are left out, so that one client cannot break a stream that others need.
Result<std::size_t> send_with_fds(int socket, std::string_view bytes, std::span<const Fd> fds);

} // namespace pageferry::monitor
