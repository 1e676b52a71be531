#include "hypervisor/qemu/monitor_launch.h"

#include <linux/close_range.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

namespace pageferry::hypervisor {

namespace {

constexpr const char* start = "start the monitor process";

Result<Fd> config_file(const MonitorConfig& config) {
    const std::string text = config.to_json();
    Fd file{::memfd_create("pageferry-monitor.json", MFD_CLOEXEC)};
    if (!file || ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
        ::lseek(file.get(), 0, SEEK_SET) != 0) {
        return std::unexpected(errno_error(errno, start, "its configuration"));
    }
    return file;
}

// In the grandchild, between fork and exec: system calls only. `report` gets the process id, then errno should exec fail.
[[noreturn]] void become_monitor(const char* program, char* const* argv, const std::vector<int>& keep, int null, int report,
                                 bool silent) {
    const pid_t self = ::getpid();
    bool sound = ::write(report, &self, sizeof self) == static_cast<ssize_t>(sizeof self) && ::dup2(null, STDIN_FILENO) >= 0 &&
                 (!silent || (::dup2(null, STDOUT_FILENO) >= 0 && ::dup2(null, STDERR_FILENO) >= 0)) &&
                 ::syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC) == 0;
    for (const int fd : keep) {
        sound = sound && ::fcntl(fd, F_SETFD, 0) == 0;
    }
    if (sound) {
        ::execv(program, argv);
    }
    const int error = errno;
    [[maybe_unused]] const ssize_t told = ::write(report, &error, sizeof error);
    ::_exit(127);
}

template <class T>
bool read_whole(int fd, T& value) {
    ssize_t got = 0;
    do {
        got = ::read(fd, &value, sizeof value);
    } while (got < 0 && errno == EINTR);
    return got == static_cast<ssize_t>(sizeof value);
}

} // namespace

Result<MonitorLaunch> MonitorLaunch::start(const std::string& program, const MonitorConfig& config, std::vector<int> keep) {
    auto file = config_file(config);
    if (!file) {
        return std::unexpected(file.error());
    }
    keep.push_back(file->get());
    std::array<int, 2> ends{};
    const Fd null{::open("/dev/null", O_RDWR | O_CLOEXEC)};
    if (!null || ::pipe2(ends.data(), O_CLOEXEC) != 0) {
        return std::unexpected(errno_error(errno, hypervisor::start));
    }
    const Fd reading{ends[0]};
    Fd writing{ends[1]};
    std::string option = "--config-fd";
    std::string number = std::to_string(file->get());
    std::string name = "pageferry-monitor";
    const std::array<char*, 4> argv{name.data(), option.data(), number.data(), nullptr};
    const pid_t child = ::fork();
    if (child < 0) {
        return std::unexpected(errno_error(errno, "fork", "the monitor process"));
    }
    if (child == 0) {
        ::setsid(); // its own session: no signal of the terminal or of QEMU's process group reaches it
        const pid_t grandchild = ::fork();
        if (grandchild == 0) {
            become_monitor(program.c_str(), argv.data(), keep, null.get(), writing.get(), config.daemonized);
        }
        ::_exit(grandchild < 0 ? 1 : 0);
    }
    writing.reset();
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
    pid_t pid = 0;
    if (!read_whole(reading.get(), pid)) {
        return std::unexpected(make_error(ErrorCode::resources, hypervisor::start, program, "it could not be forked"));
    }
    MonitorLaunch launch{Fd{static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))}};
    if (int error = 0; read_whole(reading.get(), error)) {
        return std::unexpected(errno_error(error, "execute", program, "is Pageferry installed completely?"));
    }
    return launch;
}

MonitorLaunch::~MonitorLaunch() {
    if (pidfd_) {
        ::syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
        pollfd entry{.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
        ::poll(&entry, 1, 5000); // gone when we say so
    }
}

Result<void> MonitorLaunch::wait_ready(const Fd& ready, std::chrono::milliseconds timeout) const {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    std::string words;
    for (;;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
        pollfd entry{.fd = ready.get(), .events = POLLIN, .revents = 0};
        const int polled = ::poll(&entry, 1, static_cast<int>(std::max<std::int64_t>(left, 0)));
        if (polled < 0 && errno == EINTR) {
            continue;
        }
        if (polled <= 0) {
            return std::unexpected(make_error(ErrorCode::timed_out, hypervisor::start, {}, "it was not ready in time"));
        }
        char byte = 0;
        const ssize_t got = ::read(ready.get(), &byte, 1); // one at a time: with -daemonize another reads the next one
        if (got == 1 && words.empty() && byte == ready_byte) {
            return {};
        }
        if (got <= 0) {
            return std::unexpected(words.size() > 1
                                       ? make_error(ErrorCode::state, hypervisor::start, {}, words.substr(1))
                                       : make_error(ErrorCode::closed, hypervisor::start, {}, "it ended before it was ready"));
        }
        words += byte;
    }
}

} // namespace pageferry::hypervisor
