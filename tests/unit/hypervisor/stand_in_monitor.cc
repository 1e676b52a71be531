// Stands in for pageferry-monitor in the launcher's tests: proves that what the launcher hands over works, writes down what it
// found as JSON (PAGEFERRY_TEST_REPORT), serves the user's monitors by copying bytes, and ends with QEMU.
#include "hypervisor/qemu/agent_client.h"
#include "hypervisor/qemu/monitor_config.h"

#include <nlohmann/json.hpp>

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

namespace {

using namespace pageferry;
using namespace pageferry::hypervisor;
using nlohmann::json;

std::string all_of(int fd) {
    std::string text;
    std::array<char, 4096> part{};
    for (ssize_t got = 0; (got = ::read(fd, part.data(), part.size())) > 0;) {
        text.append(part.data(), static_cast<std::size_t>(got));
    }
    return text;
}

std::string line_from(int fd) {
    std::string line;
    for (char c = 0; ::read(fd, &c, 1) == 1 && c != '\n';) {
        line += c;
    }
    return line;
}

// Sends a command, with a descriptor if one is given, and returns its answer.
json command(int fd, const json& what, int passed = -1) {
    const std::string text = what.dump() + "\n";
    iovec data{.iov_base = const_cast<char*>(text.data()), .iov_len = text.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    if (passed >= 0) {
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        std::memcpy(CMSG_DATA(header), &passed, sizeof passed);
    }
    ::sendmsg(fd, &message, MSG_NOSIGNAL);
    for (;;) {
        const std::string line = line_from(fd);
        json answer = json::parse(line, nullptr, false);
        if (line.empty() || answer.is_discarded() || answer.contains("return") || answer.contains("error")) {
            return answer;
        }
    }
}

json inspect_self() {
    json result;
    result["pid"] = ::getpid();
    result["own_session"] = ::getsid(0) != ::getsid(::getppid());
    json open = json::array();
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
        std::error_code error;
        open.push_back(entry.path().filename().string() + " " + std::filesystem::read_symlink(entry.path(), error).string());
    }
    result["open"] = open;
    return result;
}

json inspect_agent(AgentClient& agent, const MonitorConfig& config) {
    json result;
    auto handles = agent.handles();
    if (!handles) {
        return {{"error", handles.error().to_string()}};
    }
    result["tracking"] = handles->tracking.error;
    result["pagemap"] = handles->pagemap.error;
    result["faults"] = json::array();
    for (const AgentHandle& fault : handles->faults) {
        result["faults"].push_back(fault.error);
    }
    auto mappings = agent.mappings();
    if (!mappings) {
        return {{"error", mappings.error().to_string()}};
    }
    result["found"] = json::array();
    for (const AgentMapping& mapping : *mappings) {
        for (const RamBackend& ram : config.ram) {
            const bool named = ram.directory && mapping.path.starts_with(ram.mem_path + "/qemu_back_mem." + ram.id + ".");
            if ((ram.inode == 0 || mapping.device != ram.device || mapping.inode != ram.inode) && !named) {
                continue;
            }
            const auto zapped = agent.zap(mapping.address, mapping.length);
            result["found"].push_back({{"id", ram.id},
                                       {"length", mapping.length},
                                       {"page_size", mapping.page_size},
                                       {"fd", static_cast<bool>(mapping.fd)},
                                       {"writable", (::fcntl(mapping.fd.get(), F_GETFL) & O_ACCMODE) == O_RDWR},
                                       {"zap", zapped ? "" : zapped.error().to_string()},
                                       {"zap_beyond", static_cast<bool>(agent.zap(mapping.address, mapping.length + 4096))}});
        }
    }
    return result;
}

void write_report(const json& report) {
    const std::string path = std::getenv("PAGEFERRY_TEST_REPORT");
    std::ofstream{path + ".new"} << report.dump(1);
    std::filesystem::rename(path + ".new", path);
}

// Copies what there is; false at the end of either.
bool copy(int from, int to) {
    std::array<char, 4096> part{};
    const ssize_t got = ::read(from, part.data(), part.size());
    return got > 0 && ::write(to, part.data(), static_cast<std::size_t>(got)) == got;
}

// Each user monitor: one client at a time, until QEMU ends.
void serve(MonitorConfig config) {
    for (;;) {
        std::vector<pollfd> entries{{.fd = config.qemu_pidfd, .events = POLLIN, .revents = 0}};
        for (UserMonitor& m : config.user_monitors) {
            const int in = m.input_fd >= 0 ? m.input_fd : m.connected_fd;
            entries.push_back({.fd = in < 0 ? m.listen_fd : -1, .events = POLLIN, .revents = 0});
            entries.push_back({.fd = in, .events = POLLIN, .revents = 0});
            entries.push_back({.fd = in < 0 ? -1 : m.backend_fd, .events = POLLIN, .revents = 0});
        }
        ::poll(entries.data(), entries.size(), -1);
        if (entries[0].revents != 0) {
            // What QEMU said last is still to be passed on: its end of the socket is closed, so this ends too.
            for (const UserMonitor& m : config.user_monitors) {
                const int out = m.output_fd >= 0 ? m.output_fd : m.connected_fd;
                while (out >= 0 && copy(m.backend_fd, out)) {
                }
            }
            return;
        }
        for (std::size_t i = 0; i < config.user_monitors.size(); ++i) {
            UserMonitor& m = config.user_monitors[i];
            const int in = m.input_fd >= 0 ? m.input_fd : m.connected_fd;
            const int out = m.output_fd >= 0 ? m.output_fd : m.connected_fd;
            if (entries[1 + 3 * i].revents != 0) {
                m.connected_fd = ::accept(m.listen_fd, nullptr, nullptr);
            } else if ((entries[2 + 3 * i].revents != 0 && !copy(in, m.backend_fd)) ||
                       (entries[3 + 3 * i].revents != 0 && !copy(m.backend_fd, out))) {
                ::close(in);
                m.connected_fd = m.input_fd = m.output_fd = -1;
            }
        }
    }
}

} // namespace

int main(int argc, char** argv) {
    ::signal(SIGPIPE, SIG_IGN);
    if (argc != 3 || std::string_view{argv[1]} != "--config-fd") {
        return 2;
    }
    const auto config = MonitorConfig::from_json(all_of(std::atoi(argv[2])));
    if (!config) {
        std::fputs(config.error().to_string().c_str(), stderr);
        return 2;
    }
    const char* behave = std::getenv("PAGEFERRY_TEST_BEHAVE");
    const std::string behaviour = behave != nullptr ? behave : "";
    ::close(std::atoi(argv[2]));
    json report{{"config", json::parse(config->to_json())}, {"self", inspect_self()}};
    if (behaviour == "fail") {
        const std::string words = std::string{failed_byte} + "the stand-in will not";
        return ::write(config->ready_fd, words.data(), words.size()) > 0 ? 1 : 2;
    }
    if (behaviour == "exit") {
        return 1;
    }
    if (behaviour == "hang") {
        write_report(report);
        ::pause();
    }
    if (behaviour == "exec fails") {
        write_report(report);
    }
    if (::write(config->ready_fd, &ready_byte, 1) != 1) {
        return 1;
    }
    const json capabilities{{"execute", "qmp_capabilities"}};
    report["greeting"] = json::parse(line_from(config->qmp_fd), nullptr, false);
    report["negotiated"] = command(config->qmp_fd, capabilities);
    if (report["negotiated"].is_object()) {
        [[maybe_unused]] const ssize_t told = ::write(config->ready_fd, &up_byte, 1);
    }
    AgentClient agent{Fd{config->agent_fd}, std::chrono::seconds{30}};
    report["agent"] = inspect_agent(agent, *config);
    report["ram"] = command(config->qmp_fd, {{"execute", "query-memdev"}});
    report["status"] = command(config->qmp_fd, {{"execute", "query-status"}});
    if (behaviour == "getfd") {
        const int backend = config->user_monitors.at(0).backend_fd;
        line_from(backend);
        command(backend, capabilities);
        report["getfd"] = command(backend, {{"execute", "getfd"}, {"arguments", {{"fdname", "x"}}}}, STDERR_FILENO);
    }
    if (const char* file = std::getenv("PAGEFERRY_TEST_CHILD"); file != nullptr) {
        // A child of QEMU's writes down what it inherits.
        const std::string uri = std::string{"exec:(env; echo; ls -l /proc/self/fd) >"} + file + ".new; mv " + file + ".new " +
                                file + "; cat >/dev/null";
        report["child"] = command(config->qmp_fd, {{"execute", "migrate"}, {"arguments", {{"uri", uri}}}});
    }
    write_report(report);
    serve(*config);
    for (const UserMonitor& monitor : config->user_monitors) {
        if (!monitor.unlink_path.empty()) {
            ::unlink(monitor.unlink_path.c_str());
        }
    }
    return 0;
}
