#include "hypervisor/monitor_process/mover_process.h"

#include "monitor/event_loop.h"

#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

namespace pageferry::hypervisor {

namespace {

constexpr int link_number = 3; // the mover's descriptor of the link

[[noreturn]] void become_mover(const std::string& program, int link) {
    if (link == link_number) {
        ::fcntl(link, F_SETFD, 0);
    } else {
        ::dup2(link, link_number);
    }
    ::close_range(link_number + 1, ~0U, 0);
    const std::string number = std::to_string(link_number);
    std::array<char*, 4> arguments{const_cast<char*>(program.c_str()), const_cast<char*>("--link-fd"),
                                   const_cast<char*>(number.c_str()), nullptr};
    ::execv(program.c_str(), arguments.data());
    ::_exit(127);
}

constexpr int killed_mover_wait_ms = 500;

// Killed, and not waited for.
std::vector<pid_t>& unburied() {
    static std::vector<pid_t> pids;
    return pids;
}

void bury_the_dead() {
    std::erase_if(unburied(), [](pid_t pid) { return ::waitpid(pid, nullptr, WNOHANG) != 0; });
}

std::string how_it_ended(int status) {
    if (WIFSIGNALED(status)) {
        const int signal = WTERMSIG(status);
        const char* name = sigdescr_np(signal);
        return "killed by signal " + std::to_string(signal) + (name != nullptr ? " (" + std::string{name} + ")" : "");
    }
    return "exit status " + std::to_string(WEXITSTATUS(status));
}

} // namespace

Result<std::unique_ptr<MoverProcess>> MoverProcess::start(boost::asio::io_context& io, const std::string& program,
                                                          Handlers handlers) {
    if (::access(program.c_str(), X_OK) != 0) {
        return std::unexpected(errno_error(errno, "start", program, "reinstall Pageferry: its mover program is missing"));
    }
    auto ends = Link::make_pair();
    if (!ends) {
        return std::unexpected(std::move(ends.error()));
    }
    const pid_t pid = ::fork(); // the monitor process has one thread
    if (pid < 0) {
        return std::unexpected(errno_error(errno, "fork", program));
    }
    if (pid == 0) {
        become_mover(program, ends->second.fd());
    }
    bury_the_dead();
    Fd pidfd{static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))};
    if (!pidfd) {
        const Error error = errno_error(errno, "pidfd_open", program);
        ::kill(pid, SIGKILL);
        ::waitpid(pid, nullptr, 0);
        return std::unexpected(error);
    }
    return std::unique_ptr<MoverProcess>{
        new MoverProcess{io, pid, std::move(pidfd), std::move(ends->first), std::move(handlers)}};
}

MoverProcess::MoverProcess(boost::asio::io_context& io, pid_t pid, Fd pidfd, Link link, Handlers handlers)
    : pid_(pid), link_(std::move(link)), link_ready_(io, link_.fd()), pidfd_(io, pidfd.release()), handlers_(std::move(handlers)),
      alive_(std::make_shared<bool>(true)) {
    wait_for_message();
    wait_for_end();
}

MoverProcess::~MoverProcess() {
    *alive_ = false;
    link_ready_.release(); // closed by link_
    if (!buried_) {
        kill();
        // What it held (a port, the tracking of RAM) is free when this returns, unless the kernel does not let go of it: this
        // thread serves the user's monitors and waits for no device.
        pollfd end{.fd = pidfd_.native_handle(), .events = POLLIN, .revents = 0};
        (void)::poll(&end, 1, killed_mover_wait_ms);
        unburied().push_back(pid_);
    }
    bury_the_dead();
}

Result<void> MoverProcess::send(const nlohmann::json& message, std::span<const int> fds) {
    return link_.send(message, fds);
}

void MoverProcess::kill() {
    if (!buried_) {
        ::kill(pid_, SIGKILL);
    }
}

void MoverProcess::wait_for_message() {
    link_ready_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                           [this, alive = alive_](const boost::system::error_code& error) {
                               if (*alive && !error) {
                                   take_messages();
                               }
                           });
}

void MoverProcess::take_messages() {
    const auto alive = alive_;
    for (;;) {
        auto message = link_.receive(std::chrono::milliseconds{0});
        if (!message) {
            // Closed: its end is about to be reported. Anything else is not a mover of ours talking.
            if (message.error().code != ErrorCode::closed) {
                kill();
            }
            return;
        }
        if (!*message) {
            return wait_for_message();
        }
        handlers_.message(**message);
        if (!*alive) {
            return;
        }
    }
}

void MoverProcess::wait_for_end() {
    pidfd_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                      [this, alive = alive_](const boost::system::error_code& error) {
                          if (!*alive || error) {
                              return;
                          }
                          if (monitor::is_ready(pidfd_.native_handle(), POLLIN)) {
                              bury();
                          } else {
                              wait_for_end(); // it lives: see is_ready()
                          }
                      });
}

void MoverProcess::bury() {
    // What it said before it ended comes first.
    const auto alive = alive_;
    take_messages();
    if (!*alive) {
        return;
    }
    int status = 0;
    ::waitpid(pid_, &status, 0);
    buried_ = true;
    handlers_.ended(how_it_ended(status));
}

} // namespace pageferry::hypervisor
