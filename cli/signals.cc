#include "cli/signals.h"

#include <sys/signalfd.h>

#include <cerrno>
#include <csignal>

namespace pageferry::cli {

Result<Signals> Signals::take() {
    sigset_t wanted;
    ::sigemptyset(&wanted);
    ::sigaddset(&wanted, SIGINT);
    ::sigaddset(&wanted, SIGTERM);
    if (const int number = ::pthread_sigmask(SIG_BLOCK, &wanted, nullptr); number != 0) {
        return std::unexpected(errno_error(number, "block signals"));
    }
    Fd fd{::signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK)};
    if (!fd) {
        return std::unexpected(errno_error(errno, "signalfd"));
    }
    return Signals{std::move(fd)};
}

bool Signals::pending() {
    signalfd_siginfo info{};
    return ::read(fd_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info);
}

} // namespace pageferry::cli
