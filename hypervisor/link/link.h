// The local socket between the monitor process and its mover: whole JSON messages, with descriptors, over SOCK_SEQPACKET.
//
// Threads: send() by any; receive() by one at a time.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <nlohmann/json_fwd.hpp>

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace pageferry::hypervisor {

struct LinkMessage;

class Link {
public:
    // Two ends, both close-on-exec.
    static Result<std::pair<Link, Link>> make_pair();
    explicit Link(Fd socket) : socket_(std::move(socket)) {}

    [[nodiscard]] int fd() const { return socket_.get(); }
    // Never waits. resources: the other side does not read; closed: it is gone. The descriptors stay the caller's.
    [[nodiscard]] Result<void> send(const nlohmann::json& message, std::span<const int> fds = {}) const;
    // Empty: none in time. closed: the other side is gone. protocol: not JSON, or cut off.
    [[nodiscard]] Result<std::unique_ptr<LinkMessage>> receive(std::chrono::milliseconds timeout) const;

private:
    Fd socket_;
};

} // namespace pageferry::hypervisor
