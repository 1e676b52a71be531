#include "perf/qmp_command.h"

#include "perf/qmp_ping.h"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <memory>
#include <utility>

namespace pageferry::perf {

namespace {

using nlohmann::ordered_json;

int ping(const QmpPingOptions& options, bool json) {
    const auto found = run_qmp_ping(options);
    if (!found) {
        std::fprintf(stderr, "pageferry-perf: %s\n", found.error().to_string().c_str());
        return 1;
    }
    ordered_json monitors = ordered_json::array();
    for (const QmpPing& one : *found) {
        if (json) {
            monitors.push_back({{"socket", one.socket},
                                {"count", one.latency.count},
                                {"p50", one.latency.p50},
                                {"p99", one.latency.p99},
                                {"max", one.latency.max},
                                {"reply_bytes", one.reply_bytes}});
        } else {
            std::printf("p50 %8.1f us  p99 %8.1f us  %4.2f x the first's  %s\n", one.latency.p50 * 1e6, one.latency.p99 * 1e6,
                        one.latency.p50 / found->front().latency.p50, one.socket.c_str());
        }
    }
    if (json) {
        const ordered_json result{{"benchmark", "qmp"}, {"request", options.request}, {"monitors", std::move(monitors)}};
        std::printf("%s\n", result.dump().c_str());
    }
    return 0;
}

} // namespace

void add_qmp_command(CLI::App& app, int& code) {
    CLI::App* const command =
        app.add_subcommand("qmp", "How long a command takes at each of several QMP monitors, asked in turn");
    const auto given = std::make_shared<std::pair<QmpPingOptions, bool>>();
    QmpPingOptions& options = given->first;
    command->add_option("SOCKET", options.sockets, "Paths of the monitors' sockets")->required();
    command->add_option("--request", options.request, "What is asked, as it is sent")->capture_default_str();
    command->add_option("--runs", options.runs, "How many count, at each")
        ->check(CLI::Range(1U, 10'000'000U))
        ->capture_default_str();
    command->add_option("--warm-up", options.warm_up, "How many before them do not")
        ->check(CLI::Range(0U, 10'000'000U))
        ->capture_default_str();
    command
        ->add_option_function<unsigned>(
            "--pause", [&options](const unsigned& length) { options.pause = std::chrono::microseconds{length}; },
            "Microseconds to sleep before each (default 0)")
        ->check(CLI::Range(0U, 10'000'000U));
    command->add_flag("--json", given->second, "One JSON object");
    command->callback([given, &code] { code = ping(given->first, given->second); });
}

} // namespace pageferry::perf
