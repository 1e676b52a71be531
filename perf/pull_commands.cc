#include "perf/pull_commands.h"

#include "perf/fault.h"
#include "perf/plain_tcp.h"
#include "perf/pull.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace pageferry::perf {

namespace {

using nlohmann::ordered_json;

constexpr double gib = 1024.0 * 1024 * 1024;

int fail(const Error& error) {
    std::fprintf(stderr, "pageferry-perf: %s\n", error.to_string().c_str());
    return 1;
}

struct Words { // of every command
    bool listen = false;
    bool json = false;
};

int serve(const std::string& uri, unsigned lanes, std::chrono::milliseconds timeout, std::chrono::milliseconds dead_peer) {
    PushOptions options;
    options.uri = uri;
    options.lanes = lanes;
    options.timeout = timeout;
    options.dead_peer = dead_peer;
    const auto served = serve_push(options);
    return served ? 0 : fail(served.error());
}

ordered_json as_json(const std::vector<PushRun>& runs, std::uint64_t size) {
    std::vector<double> seconds;
    std::vector<double> cpu;
    for (const PushRun& run : runs) {
        seconds.push_back(run.seconds);
        cpu.push_back(run.source_cpu + run.target_cpu);
    }
    const auto bytes = static_cast<double>(size);
    return {{"bytes_per_second", bytes / spread_of(seconds).median},
            {"cpu_seconds_per_gib", spread_of(cpu).median / bytes * gib},
            {"seconds", seconds}};
}

ordered_json as_json(const Latency& latency) {
    return {{"count", latency.count}, {"p50", latency.p50}, {"p99", latency.p99}, {"max", latency.max}};
}

int pull(const PullOptions& options, const Words& words) {
    if (words.listen) {
        return serve(options.uri, options.lanes, options.timeout, options.dead_peer);
    }
    const auto report = run_pull(options);
    if (!report) {
        return fail(report.error());
    }
    const ordered_json pulled = as_json(report->pulls, options.size);
    const ordered_json pushed = as_json(report->pushes, options.size);
    if (words.json) {
        const ordered_json result{{"benchmark", "pull"},
                                  {"uri", options.uri},
                                  {"connection", report->connection},
                                  {"size_bytes", options.size},
                                  {"extent_bytes", options.extent},
                                  {"in_flight", options.in_flight},
                                  {"lanes", options.lanes},
                                  {"pull", pulled},
                                  {"push", pushed}};
        std::printf("%s\n", result.dump().c_str());
        return 0;
    }
    std::printf("%s\n%.2f GiB in extents of %.0f KiB, %zu under way\n", report->connection.c_str(),
                static_cast<double>(options.size) / gib, static_cast<double>(options.extent) / 1024, options.in_flight);
    for (const auto& [name, way] : {std::pair{"pull", &pulled}, std::pair{"push", &pushed}}) {
        std::printf("%s  %7.3f GiB/s  CPU %.3f s/GiB\n", name, (*way)["bytes_per_second"].get<double>() / gib,
                    (*way)["cpu_seconds_per_gib"].get<double>());
    }
    return 0;
}

int fault(const FaultOptions& options, const Words& words) {
    if (words.listen) {
        return serve(options.uri, options.lanes, options.timeout, options.dead_peer);
    }
    const auto report = run_fault(options);
    if (!report) {
        return fail(report.error());
    }
    const std::vector<std::pair<const char*, const Latency*>> all{
        {"read", &report->read},   {"urgent", &report->urgent}, {"urgent_busy", &report->urgent_busy},
        {"local", &report->local}, {"whole", &report->whole},   {"whole_busy", &report->whole_busy}};
    if (words.json) {
        ordered_json result{{"benchmark", "fault"},
                            {"uri", options.uri},
                            {"connection", report->connection},
                            {"size_bytes", options.size},
                            {"background_bytes_per_second", report->background}};
        for (const auto& [name, latency] : all) {
            result[name] = as_json(*latency);
        }
        std::printf("%s\n", result.dump().c_str());
        return 0;
    }
    std::printf("%s\nmicroseconds        p50        p99        max\n", report->connection.c_str());
    for (const auto& [name, latency] : all) {
        std::printf("%-12s %10.1f %10.1f %10.1f\n", name, latency->p50 * 1e6, latency->p99 * 1e6, latency->max * 1e6);
    }
    std::printf("in the background: %.3f GiB/s\n", report->background / gib);
    return 0;
}

int plain(const PlainTcpOptions& options, const Words& words) {
    if (words.listen) {
        const auto served = serve_plain_tcp(options);
        return served ? 0 : fail(served.error());
    }
    const auto latency = run_plain_tcp(options);
    if (!latency) {
        return fail(latency.error());
    }
    if (words.json) {
        ordered_json result = as_json(*latency);
        result["benchmark"] = "request-reply";
        std::printf("%s\n", result.dump().c_str());
    } else {
        std::printf("a page asked for and here: %.1f us, p99 %.1f us, longest %.1f us\n", latency->p50 * 1e6, latency->p99 * 1e6,
                    latency->max * 1e6);
    }
    return 0;
}

// What all three have. Options are filled by the parsing.
template <class Options>
void add_common(CLI::App& command, Options& options, Words& words) {
    command.add_option("URI", options.uri, "Where the other side listens, or with --listen where to")->required();
    command.add_flag("--listen", words.listen, "Serve one asking side, then end");
    command.add_option("--runs", options.runs, "How many count")->check(CLI::Range(1U, 10'000'000U))->capture_default_str();
    command.add_option("--warm-up", options.warm_up, "How many before them do not")
        ->check(CLI::Range(0U, 10'000'000U))
        ->capture_default_str();
    command.add_flag("--json", words.json, "One JSON object");
    command
        .add_option_function<double>(
            "--timeout",
            [&](const double& seconds) { options.timeout = std::chrono::milliseconds{std::llround(seconds * 1000)}; },
            "Longest wait for the other side, seconds (default 60)")
        ->check(CLI::Range(0.1, 86'400.0));
}

template <class Options>
void add_ram(CLI::App& command, Options& options) {
    command.add_option("--size", options.size, "Bytes of RAM, such as 512M")->transform(CLI::AsSizeValue(false));
    command.add_option("--lanes", options.lanes, "Bulk lanes")->check(CLI::Range(1U, 64U))->capture_default_str();
}

void check_pages(const char* option, std::uint64_t bytes) {
    if (bytes == 0 || bytes % 4096 != 0) {
        throw CLI::ValidationError{option, "must be a multiple of 4096"};
    }
}

} // namespace

void add_pull_commands(CLI::App& app, int& code) {
    CLI::App* const pull_command =
        app.add_subcommand("pull", "How fast a transport pulls RAM, in turn with how fast it pushes as much");
    const auto pulls = std::make_shared<std::pair<PullOptions, Words>>();
    add_common(*pull_command, pulls->first, pulls->second);
    add_ram(*pull_command, pulls->first);
    pull_command->add_option("--extent", pulls->first.extent, "Bytes of one pull (default 256K)")
        ->transform(CLI::AsSizeValue(false));
    pull_command->add_option("--in-flight", pulls->first.in_flight, "Pulls under way at once")
        ->check(CLI::Range(1U, 1024U))
        ->capture_default_str();
    pull_command->callback([pulls, &code] {
        check_pages("--size", pulls->first.size);
        check_pages("--extent", pulls->first.extent);
        code = pull(pulls->first, pulls->second);
    });

    CLI::App* const fault_command = app.add_subcommand(
        "fault", "How long a page fault takes in postcopy: the pull, the fault itself, and both, alone and beside bulk pulls");
    const auto faults = std::make_shared<std::pair<FaultOptions, Words>>();
    add_common(*fault_command, faults->first, faults->second);
    add_ram(*fault_command, faults->first);
    fault_command->callback([faults, &code] {
        check_pages("--size", faults->first.size);
        code = fault(faults->first, faults->second);
    });

    CLI::App* const plain_command =
        app.add_subcommand("request-reply", "How long a page takes that is asked for over a plain TCP connection");
    const auto plains = std::make_shared<std::pair<PlainTcpOptions, Words>>();
    add_common(*plain_command, plains->first, plains->second);
    plain_command->callback([plains, &code] { code = plain(plains->first, plains->second); });
}

} // namespace pageferry::perf
