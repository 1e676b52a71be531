#include "hypervisor/qemu/launcher.h"

#include "base/fd.h"
#include "hypervisor/qemu/agent/agent_protocol.h"
#include "hypervisor/qemu/command_line.h"
#include "hypervisor/qemu/daemonize.h"
#include "hypervisor/qemu/linux_host.h"
#include "hypervisor/qemu/monitor_launch.h"
#include "hypervisor/qemu/monitor_socket.h"
#include "hypervisor/qemu/program_files.h"
#include "hypervisor/qemu/text.h"
#include "memory/ram_file.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>

namespace pageferry::hypervisor {

namespace {

constexpr int failed = 1;
constexpr int not_executed = 127;
constexpr std::chrono::seconds ready_timeout{30};

int report(const Error& error, int status = failed) {
    std::cerr << "pageferry: " << error.to_string() << '\n';
    return status;
}

struct SocketPair {
    Fd ours; // the monitor process's
    Fd qemu;
};

Result<SocketPair> socket_pair(int type) {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends.data()) != 0) {
        return std::unexpected(errno_error(errno, "socketpair"));
    }
    return SocketPair{.ours = Fd{ends[0]}, .qemu = Fd{ends[1]}};
}

// Everything that is made for one QEMU. Destroyed, it is all gone again: socket files, the monitor process.
struct Launch {
    std::vector<Fd> ram; // as LaunchPlan::ram; empty where QEMU opens a file itself
    std::vector<MonitorSocket> monitors;
    std::vector<SocketPair> backends; // as monitors
    SocketPair qmp;
    SocketPair agent;
    Fd userfaultfd; // /dev/userfaultfd; may be empty
    Fd pidfd;       // this process: QEMU, soon
    Fd ready;       // reading end
    std::optional<MonitorLaunch> monitor_process;
};

Result<void> make_ram(LaunchPlan& plan, Launch& launch) {
    for (PlannedRam& ram : plan.ram) {
        Fd file;
        if (ram.ours) {
            const std::string name = "pageferry-" + ram.backend.id;
            auto made = memory::make_ram_file(name, ram.backend.size);
            if (!made) {
                return std::unexpected(made.error());
            }
            file = std::move(*made);
            struct stat about{};
            if (::fstat(file.get(), &about) != 0) {
                return std::unexpected(errno_error(errno, "fstat", ram.backend.id));
            }
            ram.backend.mem_path = "/proc/self/fd/" + std::to_string(file.get());
            ram.backend.device = about.st_dev;
            ram.backend.inode = about.st_ino;
        } else {
            std::error_code error; // as the kernel will name it in /proc/PID/maps
            const auto resolved = std::filesystem::weakly_canonical(ram.backend.mem_path, error);
            ram.backend.mem_path = error ? ram.backend.mem_path : resolved.string();
        }
        launch.ram.push_back(std::move(file));
    }
    return {};
}

Result<void> make_sockets(const LaunchPlan& plan, Launch& launch) {
    for (SocketPair* pair : {&launch.qmp, &launch.agent}) {
        auto made = socket_pair(pair == &launch.agent ? SOCK_SEQPACKET : SOCK_STREAM);
        if (!made) {
            return std::unexpected(made.error());
        }
        *pair = std::move(*made);
    }
    for (const PlannedMonitor& monitor : plan.monitors) {
        auto backend = socket_pair(SOCK_STREAM);
        if (!backend) {
            return std::unexpected(backend.error());
        }
        launch.backends.push_back(std::move(*backend));
        auto socket = MonitorSocket::open(monitor);
        if (!socket) {
            return std::unexpected(socket.error());
        }
        launch.monitors.push_back(std::move(*socket));
    }
    return {};
}

Result<std::string> log_destination(const LauncherSettings& settings, bool daemonized) {
    const char* given = std::getenv("PAGEFERRY_LOG");
    std::string text = given != nullptr && *given != '\0' ? given : settings.log;
    if (text.empty()) {
        return daemonized ? "none" : "stderr";
    }
    if (text == "stderr" || text == "none") {
        return text;
    }
    std::error_code error;
    std::string file = std::filesystem::absolute(text, error).string();
    // A log that cannot be written would end the monitor process, without a word.
    if (const Fd opened{::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)}; !opened) {
        return std::unexpected(errno_error(errno, "open", "log " + file, "QEMU's user has to be able to write the log"));
    }
    return file;
}

Result<void> start_monitor_process(const LaunchPlan& plan, const LauncherSettings& settings, Launch& launch, Fd ready_writer) {
    auto program = find_monitor_program();
    if (!program) {
        return std::unexpected(program.error());
    }
    launch.pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
    if (!launch.pidfd) {
        return std::unexpected(errno_error(errno, "pidfd_open", {}, "Linux 5.3 or later is needed"));
    }
    auto log = log_destination(settings, plan.daemonize);
    if (!log) {
        return std::unexpected(log.error());
    }
    MonitorConfig config{.qemu_pid = ::getpid(),
                         .qemu_pidfd = launch.pidfd.get(),
                         .qmp_fd = launch.qmp.ours.get(),
                         .agent_fd = launch.agent.ours.get(),
                         .ready_fd = ready_writer.get(),
                         .qemu_binary = plan.arguments.at(0).before,
                         .guest_name = plan.guest_name,
                         .incoming_given = plan.incoming_given,
                         .incoming = plan.incoming,
                         .incoming_native = plan.incoming_native,
                         .autostart = plan.autostart,
                         .untracked_writers = plan.untracked_writers,
                         .discarders = plan.discarders,
                         .daemonized = plan.daemonize,
                         .log = std::move(*log),
                         .parameters = settings.parameters,
                         .settings_file = settings.file};
    std::vector<int> keep{config.qemu_pidfd, config.qmp_fd, config.agent_fd, config.ready_fd};
    for (std::size_t i = 0; i < launch.monitors.size(); ++i) {
        config.user_monitors.push_back(launch.monitors[i].describe(plan.monitors[i], launch.backends[i].ours.get()));
        launch.monitors[i].append_numbers(keep);
        keep.push_back(launch.backends[i].ours.get());
    }
    std::ranges::transform(plan.ram, std::back_inserter(config.ram), &PlannedRam::backend);
    auto started = MonitorLaunch::start(*program, config, std::move(keep));
    if (!started) {
        return std::unexpected(started.error());
    }
    launch.monitor_process.emplace(std::move(*started));
    ready_writer.reset(); // so that its end is seen
    return launch.monitor_process->wait_ready(launch.ready, ready_timeout);
}

// QEMU's environment: ours, the agent preloaded before whatever was, and the descriptors for it.
std::vector<std::string> environment_for(const std::string& agent, const Launch& launch, const std::string& close_on_exec) {
    std::vector<std::string> variables;
    std::string preload = "LD_PRELOAD=" + agent;
    for (char** entry = environ; *entry != nullptr; ++entry) {
        const std::string_view text{*entry};
        if (text.starts_with("LD_PRELOAD=")) {
            preload += join(":", text.substr(text.find('=') + 1));
        } else {
            variables.emplace_back(text);
        }
    }
    variables.push_back(std::move(preload));
    variables.push_back(join(PF_AGENT_ENV_FD, "=", launch.agent.qemu.get()));
    variables.push_back(join(PF_AGENT_ENV_CLOSE_ON_EXEC, "=", close_on_exec));
    if (launch.userfaultfd) {
        variables.push_back(join(PF_AGENT_ENV_USERFAULTFD, "=", launch.userfaultfd.get()));
    }
    return variables;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
    std::vector<char*> list;
    std::ranges::transform(texts, std::back_inserter(list), [](std::string& text) { return text.data(); });
    list.push_back(nullptr);
    return list;
}

// Returns only with errno.
int execute_qemu(const std::string& program, const LaunchPlan& plan, const Launch& launch, const std::string& agent) {
    std::string listed;
    const auto inherit = [&](const Fd& fd) {
        if (fd) {
            ::fcntl(fd.get(), F_SETFD, 0);
            listed += join(listed.empty() ? "" : ",", fd.get());
        }
    };
    std::ranges::for_each(launch.ram, inherit);
    std::ranges::for_each(launch.backends, inherit, &SocketPair::qemu);
    inherit(launch.qmp.qemu);
    inherit(launch.agent.qemu);
    inherit(launch.userfaultfd);
    const auto on_stdio = [](const PlannedMonitor& monitor) { return monitor.kind == MonitorKind::stdio; };
    if (std::ranges::any_of(plan.monitors, on_stdio)) {
        const Fd null{::open("/dev/null", O_RDWR | O_CLOEXEC)};
        ::dup2(null.get(), STDIN_FILENO); // the monitor process reads it now
    }
    std::vector<std::string> words = render(plan, [&](Slot slot, std::size_t index) {
        return slot == Slot::ram_file       ? launch.ram[index].get()
               : slot == Slot::user_monitor ? launch.backends[index].qemu.get()
                                            : launch.qmp.qemu.get();
    });
    std::vector<std::string> variables = environment_for(agent, launch, listed);
    ::execve(program.c_str(), pointers(words).data(), pointers(variables).data());
    return errno;
}

// Nothing of ours may become descriptor 0, 1 or 2, should the caller have closed them.
void occupy_stdio() {
    int fd = 0;
    do {
        fd = ::open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    ::close(fd);
}

int launch_qemu(const std::string& program, LaunchPlan plan, const LauncherSettings& settings, ReadyPipe pipe) {
    Launch launch;
    launch.ready = std::move(pipe.reading);
    auto agent = find_agent();
    if (!agent) {
        return report(agent.error());
    }
    if (auto made = make_ram(plan, launch); !made) {
        return report(made.error());
    }
    if (auto made = make_sockets(plan, launch); !made) {
        return report(made.error());
    }
    launch.userfaultfd.reset(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)); // often forbidden; the agent has other ways
    if (auto started = start_monitor_process(plan, settings, launch, std::move(pipe.writing)); !started) {
        return report(started.error());
    }
    const int error = execute_qemu(program, plan, launch, *agent);
    return report(errno_error(error, "execute", program), not_executed);
}

} // namespace

int run_qemu(std::vector<std::string> argv, const LauncherSettings& settings) {
    auto plan = plan_launch(argv, LinuxHost{});
    if (!plan) {
        return report(plan.error());
    }
    auto program = find_program(argv[0]);
    if (!program) {
        return report(program.error(), not_executed);
    }
    if (plan->plain) {
        ::execv(program->c_str(), pointers(argv).data());
        return report(errno_error(errno, "execute", *program), not_executed);
    }
    occupy_stdio();
    auto pipe = ReadyPipe::make();
    if (!pipe) {
        return report(pipe.error());
    }
    if (plan->daemonize) {
        auto outcome = fork_daemon(*pipe);
        if (!outcome) {
            return report(outcome.error());
        }
        if (outcome->parent) {
            return outcome->status;
        }
    }
    return launch_qemu(*program, std::move(*plan), settings, std::move(*pipe));
}

int run_qemu(std::vector<std::string> argv) {
    const auto settings = LauncherSettings::load();
    return settings ? run_qemu(std::move(argv), *settings) : report(settings.error());
}

} // namespace pageferry::hypervisor
