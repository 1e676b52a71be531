// pageferry-monitor: started by `pageferry qemu` beside each QEMU; not for people.
#include "hypervisor/monitor_process/monitor_process.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/null_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <sys/prctl.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <string>
#include <string_view>

namespace {

using pageferry::hypervisor::MonitorConfig;

pageferry::Result<MonitorConfig> read_config(int number) {
    const pageferry::Fd fd{number};
    std::string text;
    std::array<char, 4096> buffer{};
    for (ssize_t count = 0; (count = ::pread(fd.get(), buffer.data(), buffer.size(), static_cast<off_t>(text.size()))) != 0;) {
        if (count < 0) {
            return std::unexpected(pageferry::errno_error(errno, "read", "configuration"));
        }
        text.append(buffer.data(), static_cast<std::size_t>(count));
    }
    return MonitorConfig::from_json(text);
}

void start_log(const std::string& destination) {
    if (destination == "stderr") {
        spdlog::set_default_logger(spdlog::stderr_logger_mt("pageferry-monitor"));
    } else if (destination == "none" || destination.empty()) {
        spdlog::set_default_logger(spdlog::null_logger_mt("pageferry-monitor"));
    } else {
        spdlog::set_default_logger(spdlog::basic_logger_mt("pageferry-monitor", destination));
        spdlog::flush_on(spdlog::level::info);
    }
    spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %n[%P] %l: %v");
}

} // namespace

int main(int argc, char** argv) {
    int number = -1;
    if (argc == 3 && std::string_view{argv[1]} == "--config-fd") {
        const std::string_view text{argv[2]};
        std::from_chars(text.data(), text.data() + text.size(), number);
    }
    if (number < 0) {
        std::fputs("pageferry-monitor is started by `pageferry qemu`; it is not for people\n", stderr);
        return 2;
    }
    // A client, a mover or a launcher that is gone is an error of one write. A terminal's Ctrl-C is for QEMU.
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGINT, SIG_IGN);
    std::signal(SIGHUP, SIG_IGN);
    ::prctl(PR_SET_NAME, "pageferry-mon", 0, 0, 0);
    auto config = read_config(number);
    if (!config) {
        std::fprintf(stderr, "pageferry-monitor: %s\n", config.error().to_string().c_str());
        return 1;
    }
    start_log(config->log);
    const int ready = config->ready_fd;
    pageferry::hypervisor::MonitorProcess process{std::move(*config)};
    if (auto started = process.start(); !started) {
        const std::string text = pageferry::hypervisor::failed_byte + started.error().to_string();
        [[maybe_unused]] const auto written = ::write(ready, text.data(), text.size());
        return 1;
    }
    process.run();
    return 0;
}
