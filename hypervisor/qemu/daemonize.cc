#include "hypervisor/qemu/daemonize.h"

#include "hypervisor/qemu/monitor_config.h"

#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>
#include <csignal>

namespace pageferry::hypervisor {

namespace {

Result<ReadyPipe> make_pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        return std::unexpected(errno_error(errno, "pipe"));
    }
    return ReadyPipe{.reading = Fd{ends[0]}, .writing = Fd{ends[1]}};
}

void become_daemon(const Fd& errors) {
    ::setsid();
    ::umask(027);
    for (const int signal : {SIGTSTP, SIGTTOU, SIGTTIN}) {
        ::signal(signal, SIG_IGN);
    }
    const Fd null{::open("/dev/null", O_RDWR | O_CLOEXEC)};
    if (null) {
        ::dup2(null.get(), STDIN_FILENO);
        ::dup2(null.get(), STDOUT_FILENO);
    }
    ::dup2(errors.get(), STDERR_FILENO);
}

// Passes on what is there to read. False at the end.
bool relay(int from) {
    std::array<char, 4096> text{};
    const ssize_t got = ::read(from, text.data(), text.size());
    for (ssize_t done = 0; done < got;) {
        const ssize_t put = ::write(STDERR_FILENO, text.data() + done, static_cast<std::size_t>(got - done));
        if (put <= 0) {
            break;
        }
        done += put;
    }
    return got > 0 || (got < 0 && errno == EINTR);
}

int exit_status_of(pid_t child) {
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    return code == 0 ? 1 : code; // it ended without ever being up
}

// `executed` ends when the child has become QEMU: only then is the ready pipe ours to read.
int wait_until_up(pid_t child, const Fd& ended, const Fd& executed, const Fd& errors, const Fd& ready) {
    bool is_qemu = false;
    bool errors_open = true;
    for (;;) {
        std::array<pollfd, 3> entries{{{.fd = errors_open ? errors.get() : -1, .events = POLLIN, .revents = 0},
                                       {.fd = is_qemu ? ready.get() : executed.get(), .events = POLLIN, .revents = 0},
                                       {.fd = ended.get(), .events = POLLIN, .revents = 0}}};
        if (::poll(entries.data(), entries.size(), -1) < 0) {
            continue; // EINTR
        }
        if (entries[0].revents != 0) {
            errors_open = relay(errors.get());
            continue; // all that was said before the end
        }
        if (entries[2].revents != 0) {
            return exit_status_of(child);
        }
        if (entries[1].revents != 0 && !is_qemu) {
            is_qemu = true;
        } else if (entries[1].revents != 0) {
            char byte = 0;
            const ssize_t got = ::read(ready.get(), &byte, 1);
            if (got == 1 && byte == up_byte) {
                return 0;
            }
            if (got <= 0) {
                // The monitor process is gone: QEMU is ending, or has nobody to serve its monitors.
                pollfd gone{.fd = ended.get(), .events = POLLIN, .revents = 0};
                if (::poll(&gone, 1, 5000) == 0) {
                    ::kill(child, SIGTERM);
                }
                while (errors_open && (errors_open = relay(errors.get()))) {
                }
                return exit_status_of(child);
            }
        }
    }
}

} // namespace

Result<ReadyPipe> ReadyPipe::make() {
    return make_pipe();
}

Result<DaemonOutcome> fork_daemon(ReadyPipe& ready) {
    auto executed = make_pipe();
    auto errors = make_pipe();
    if (!executed || !errors) {
        return std::unexpected(executed ? errors.error() : executed.error());
    }
    const pid_t child = ::fork();
    if (child < 0) {
        return std::unexpected(errno_error(errno, "fork", "QEMU"));
    }
    if (child == 0) {
        become_daemon(errors->writing);
        // Closed by exec, or by the end of the process.
        [[maybe_unused]] const int held = executed->writing.release();
        return DaemonOutcome{.parent = false};
    }
    executed->writing.reset();
    errors->writing.reset();
    ready.writing.reset();
    const Fd ended{static_cast<int>(::syscall(SYS_pidfd_open, child, 0))};
    if (!ended) {
        return std::unexpected(errno_error(errno, "pidfd_open", {}, "Linux 5.3 or later is needed"));
    }
    return DaemonOutcome{.parent = true,
                         .status = wait_until_up(child, ended, executed->reading, errors->reading, ready.reading)};
}

} // namespace pageferry::hypervisor
