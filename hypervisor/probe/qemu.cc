#include "hypervisor/probe/qemu.h"

#include "base/fd.h"
#include "hypervisor/qemu/program_files.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>
#include <string_view>
#include <system_error>

namespace pageferry::hypervisor {

namespace {

namespace fs = std::filesystem;
using std::chrono::steady_clock;

constexpr std::chrono::seconds patience{10};
constexpr std::size_t most_output = 64UL * 1024;
constexpr int oldest_major = 5; // its options are the oldest that the drop-in knows

struct Run {
    std::string output; // both streams
    int status = -1;    // of wait(2); -1: it was killed, for it did not end
};

void read_until_end(int pipe, std::string& output, steady_clock::time_point end) {
    std::array<char, 4096> buffer{};
    while (output.size() < most_output) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - steady_clock::now()).count();
        pollfd ready{.fd = pipe, .events = POLLIN, .revents = 0};
        if (left <= 0 || ::poll(&ready, 1, static_cast<int>(left)) <= 0) {
            return;
        }
        const ssize_t got = ::read(pipe, buffer.data(), buffer.size());
        if (got <= 0) {
            return;
        }
        output.append(buffer.data(), static_cast<std::size_t>(got));
    }
}

// `file --version`, with the agent preloaded but not told of any socket: there it does nothing.
Result<Run> ask_version(const std::string& file, const std::string& agent) {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        return std::unexpected(errno_error(errno, "pipe", file));
    }
    const Fd ours{ends[0]};
    Fd theirs{ends[1]};
    std::vector<std::string> variables;
    for (char** one = environ; *one != nullptr; ++one) {
        if (!std::string_view{*one}.starts_with("LD_PRELOAD=")) {
            variables.emplace_back(*one);
        }
    }
    variables.push_back("LD_PRELOAD=" + agent);
    std::vector<char*> environment;
    environment.reserve(variables.size() + 1);
    for (std::string& one : variables) {
        environment.push_back(one.data());
    }
    environment.push_back(nullptr);
    std::string name = file;
    std::string option = "--version";
    const std::array<char*, 3> arguments{name.data(), option.data(), nullptr};

    const pid_t child = ::fork();
    if (child < 0) {
        return std::unexpected(errno_error(errno, "fork", file));
    }
    if (child == 0) { // nothing but async-signal-safe calls
        if (const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC); nothing >= 0) {
            ::dup2(nothing, STDIN_FILENO);
        }
        ::dup2(theirs.get(), STDOUT_FILENO);
        ::dup2(theirs.get(), STDERR_FILENO);
        ::execve(name.data(), arguments.data(), environment.data());
        ::_exit(127);
    }
    theirs.reset();
    Run run;
    const auto end = steady_clock::now() + patience;
    read_until_end(ours.get(), run.output, end);
    int status = 0;
    while (::waitpid(child, &status, WNOHANG) == 0) {
        if (steady_clock::now() > end) {
            ::kill(child, SIGKILL);
            ::waitpid(child, &status, 0);
            return run;
        }
        ::usleep(1000);
    }
    run.status = status;
    return run;
}

Error not_served(ErrorCode code, const std::string& file, std::string reason, std::string remedy) {
    return make_error(code, "serve", file, std::move(reason), std::move(remedy));
}

// The first line that speaks of what, or empty.
std::string line_with(const std::string& text, std::string_view what) {
    const std::size_t at = text.find(what);
    if (at == std::string::npos) {
        return {};
    }
    const std::size_t begin = text.rfind('\n', at);
    const std::size_t from = begin == std::string::npos ? 0 : begin + 1;
    return text.substr(from, std::min(text.find('\n', at), text.size()) - from);
}

Result<void> judge(const std::string& file, const Run& run, const std::string& version) {
    if (run.status != 0) {
        const std::string how = run.status < 0            ? "it did not end within 10 s"
                                : WIFSIGNALED(run.status) ? "signal " + std::to_string(WTERMSIG(run.status))
                                                          : "exit status " + std::to_string(WEXITSTATUS(run.status));
        return std::unexpected(not_served(ErrorCode::unsupported, file, "it does not run: --version: " + how,
                                          "run it by hand to see why; a missing library is the usual reason"));
    }
    if (const std::string words = line_with(run.output, "LD_PRELOAD cannot be preloaded"); !words.empty()) {
        return std::unexpected(not_served(ErrorCode::unsupported, file, "the agent does not load in it: " + words,
                                          "build or install Pageferry for the C library that this QEMU uses"));
    }
    if (version.empty()) {
        return std::unexpected(not_served(ErrorCode::unsupported, file, "it does not say which version it is", "is it QEMU?"));
    }
    if (std::atoi(version.c_str()) < oldest_major) {
        return std::unexpected(not_served(ErrorCode::version, file, "QEMU " + version + " is too old",
                                          "use QEMU 7.2 or later, which is what is tested"));
    }
    struct stat about{};
    if (::stat(file.c_str(), &about) == 0 && (about.st_mode & (S_ISUID | S_ISGID)) != 0) {
        return std::unexpected(not_served(ErrorCode::permission, file, "it is set-user-id: nothing can be preloaded into it",
                                          "start it as the user it should run as, without that bit"));
    }
    return {};
}

Result<std::string> own_pieces() {
    if (const auto monitor = find_monitor_program(); !monitor) {
        return std::unexpected(monitor.error());
    }
    return find_agent();
}

} // namespace

std::string qemu_version(const std::string& output) {
    constexpr std::string_view words = "QEMU emulator version ";
    const std::size_t at = output.find(words);
    if (at == std::string::npos) {
        return {};
    }
    const std::size_t begin = at + words.size();
    return output.substr(begin, output.find_first_not_of("0123456789.", begin) - begin);
}

std::vector<QemuFound> find_qemus() {
    std::map<std::string, std::string> found; // by name
    const char* variable = std::getenv("PATH");
    const std::string path = variable != nullptr ? variable : "/bin:/usr/bin";
    for (std::size_t at = 0; at <= path.size();) {
        const std::size_t end = std::min(path.find(':', at), path.size());
        const std::string folder = path.substr(at, end - at);
        std::error_code failed;
        for (fs::directory_iterator entry{folder.empty() ? "." : folder, failed}; !failed && entry != fs::directory_iterator{};
             entry.increment(failed)) {
            const std::string name = entry->path().filename();
            std::error_code no_file;
            if (name.starts_with("qemu-system-") && fs::is_regular_file(entry->path(), no_file) &&
                ::access(entry->path().c_str(), X_OK) == 0) {
                found.try_emplace(name, entry->path());
            }
        }
        at = end + 1;
    }
    std::vector<QemuFound> all;
    std::set<fs::path> seen;
    const auto agent = own_pieces();
    for (const auto& [name, file] : found) {
        std::error_code failed;
        if (!seen.insert(fs::canonical(file, failed)).second) {
            continue;
        }
        const auto run = ask_version(file, agent.value_or(""));
        QemuFound one{.file = file, .version = run ? qemu_version(run->output) : "", .served = {}};
        if (!run) {
            one.served = std::unexpected(run.error());
        } else if (!agent) {
            one.served = std::unexpected(agent.error());
        } else {
            one.served = judge(file, *run, one.version);
        }
        all.push_back(std::move(one));
    }
    return all;
}

} // namespace pageferry::hypervisor
