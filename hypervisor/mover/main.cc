// pageferry-mover: started by the monitor process for one migration; not for people.
#include "hypervisor/mover/mover.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdio>
#include <string_view>

int main(int argc, char** argv) {
    int number = -1;
    if (argc == 3 && std::string_view{argv[1]} == "--link-fd") {
        const std::string_view text{argv[2]};
        std::from_chars(text.data(), text.data() + text.size(), number);
    }
    if (number < 0) {
        std::fputs("pageferry-mover is started by the monitor process; it is not for people\n", stderr);
        return 2;
    }
    std::signal(SIGPIPE, SIG_IGN);
    spdlog::set_default_logger(spdlog::stderr_logger_mt("pageferry-mover"));
    spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %n[%P] %l: %v");
    pageferry::hypervisor::Mover mover{pageferry::hypervisor::Link{pageferry::Fd{number}}};
    return mover.run() ? 0 : 1;
}
