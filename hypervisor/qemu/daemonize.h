// -daemonize, done by the launcher: QEMU goes on in a child, and the parent ends when QEMU is up.
//
// Threads: the main thread of a process that has no other.
#pragma once

#include "base/error.h"
#include "base/fd.h"

namespace pageferry::hypervisor {

// From the monitor process to whoever waits for it (monitor_config.h).
struct ReadyPipe {
    Fd reading;
    Fd writing;
    static Result<ReadyPipe> make();
};

struct DaemonOutcome {
    bool parent = false;
    int status = 0; // parent: what it is to exit with
};

// In the child it returns at once: own session, stdin and stdout /dev/null, umask 027, terminal stop signals ignored, as QEMU's
// own -daemonize; stderr goes to the parent as long as it waits. In the parent it returns when up_byte has come (0), or with the
// child's status when that has ended.
Result<DaemonOutcome> fork_daemon(ReadyPipe& ready);

} // namespace pageferry::hypervisor
