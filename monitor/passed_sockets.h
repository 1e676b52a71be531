// Sockets that a client has handed to QEMU with getfd: for a VM manager that connects to the migration's destination itself and
// then says `migrate fd:NAME` (libvirt does so for tcp: and unix: without postcopy).
//
// Pageferry needs more connections than that one, so it takes from it where the destination is. QEMU gets every descriptor all
// the same: what it is for is only known later. Threads: the monitor process's one thread.
#pragma once

#include "base/fd.h"

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>

namespace pageferry::monitor {

class PassedSockets {
public:
    // close_at_qemu: QEMU's own descriptor of that name is not needed any more.
    explicit PassedSockets(std::function<void(const std::string& name)> close_at_qemu = {})
        : close_at_qemu_(std::move(close_at_qemu)) {}

    // getfd: a duplicate is kept of a connected stream socket whose peer has an address that others can connect to (not of a
    // file, a pipe, or one of a pair). The name's former one is let go of in any case.
    void passed(const std::string& name, std::span<const Fd> fds);
    // closefd.
    void closed(const std::string& name) { sockets_.erase(name); }

    // "tcp:192.0.2.7:49152", "unix:/run/dst.sock": the peer of the socket of that name; empty where there is none.
    [[nodiscard]] std::optional<std::string> peer(const std::string& name) const;
    // Ends that connection, whoever else holds it: its peer shall not wait for what will not come.
    void shut_down(const std::string& name);

private:
    std::function<void(const std::string& name)> close_at_qemu_;
    std::map<std::string, Fd> sockets_;
};

} // namespace pageferry::monitor
