#include "transport/plugin/events.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <array>
#include <cerrno>

namespace pageferry::plugin {

Wait wait_for(int socket, short events, const Deadline& deadline, int cancel) {
    std::array<pollfd, 2> watched{pollfd{.fd = socket, .events = events, .revents = 0},
                                  pollfd{.fd = cancel, .events = POLLIN, .revents = 0}};
    for (;;) {
        const int found = ::poll(watched.data(), watched.size(), deadline.poll_ms());
        if (found > 0) {
            return watched[1].revents != 0 ? Wait::cancelled : Wait::ready;
        }
        // An error of poll can only be EINTR here (or no memory in the kernel, which passes).
        if (deadline.passed()) {
            return Wait::timed_out;
        }
    }
}

Result<Fd> make_event() {
    Fd event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    if (!event) {
        return std::unexpected{errno_error(errno, "eventfd", {}, "raise the limit on open files (ulimit -n)")};
    }
    return event;
}

void raise_event(int event) {
    // Fails only when the counter is full, and then it is readable anyway.
    (void)::eventfd_write(event, 1);
}

} // namespace pageferry::plugin
