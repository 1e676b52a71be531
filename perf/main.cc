// pageferry-perf: measures parts of Pageferry on this machine. perf/compare.py runs it beside its peers.
#include "perf/control_ping.h"
#include "perf/dirty_scan.h"
#include "perf/pull_commands.h"
#include "perf/push.h"
#include "perf/qmp_command.h"
#include "perf/stats.h"
#include "transport/abi/pageferry_transport.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace {

using namespace pageferry;
using namespace pageferry::perf;
using nlohmann::ordered_json;

constexpr double gib = 1024.0 * 1024 * 1024;

constexpr const char* examples = R"(Examples:
  pageferry-perf push --listen tcp:0:5000           # on one host
  pageferry-perf push tcp:other.example:5000 --size 2G --lanes 4 --runs 7 --json
  pageferry-perf fault --listen tcp:0:5000          # on one host: what is pulled from
  pageferry-perf fault tcp:other.example:5000       # page faults on the other
  pageferry-perf dirty-scan --size 1G,4G,16G
  pageferry-perf qmp /run/plain.qmp /run/ferried.qmp

Exit codes: 0 measured, 1 failed, 2 wrong command line. The transports are found as by pageferry itself (PAGEFERRY_TRANSPORT_PATH).
)";

int fail(const Error& error) {
    std::fprintf(stderr, "pageferry-perf: %s\n", error.to_string().c_str());
    return 1;
}

ordered_json as_json(const Spread& spread) {
    return {{"median", spread.median}, {"min", spread.min}, {"max", spread.max}};
}

Spread spread_over(const std::vector<PushRun>& runs, double (*figure)(const PushRun&)) {
    std::vector<double> samples;
    samples.reserve(runs.size());
    for (const PushRun& run : runs) {
        samples.push_back(figure(run));
    }
    return spread_of(samples);
}

void print_push(const PushOptions& options, const PushReport& report, bool json) {
    const auto size = static_cast<double>(options.size);
    const Spread seconds = spread_over(report.runs, [](const PushRun& run) { return run.seconds; });
    const Spread source = spread_over(report.runs, [](const PushRun& run) { return run.source_cpu; });
    const Spread target = spread_over(report.runs, [](const PushRun& run) { return run.target_cpu; });
    const Spread both = spread_over(report.runs, [](const PushRun& run) { return run.source_cpu + run.target_cpu; });
    const Spread rate{.median = size / seconds.median, .min = size / seconds.max, .max = size / seconds.min};
    if (!json) {
        std::printf("%s\n", report.connection.c_str());
        std::printf("%.2f GiB in extents of %.0f KiB, %zu runs after %u to warm up\n", size / gib,
                    static_cast<double>(options.extent) / 1024, report.runs.size(), options.warm_up);
        std::printf("rate     %7.3f GiB/s   (%.3f to %.3f)\n", rate.median / gib, rate.min / gib, rate.max / gib);
        std::printf("time     %7.3f s       (%.3f to %.3f)\n", seconds.median, seconds.min, seconds.max);
        std::printf("CPU      %7.3f s/GiB   (source %.3f, target %.3f)\n", both.median / size * gib, source.median / size * gib,
                    target.median / size * gib);
        for (const PushStep& step : report.steps) {
            std::printf("%9.3f ms  %s\n", step.seconds * 1e3, step.name.c_str());
        }
        std::printf("%9.3f ms  first push complete\n", report.first_push * 1e3);
        if (report.idle) {
            std::printf("idle for %.1f s: CPU %.4f s (source), %.4f s (target)\n", report.idle->seconds, report.idle->source_cpu,
                        report.idle->target_cpu);
        }
        return;
    }
    ordered_json steps = ordered_json::object();
    for (const PushStep& step : report.steps) {
        steps[step.name] = step.seconds;
    }
    const ordered_json idle = report.idle ? ordered_json{{"seconds", report.idle->seconds},
                                                         {"source_cpu_seconds", report.idle->source_cpu},
                                                         {"target_cpu_seconds", report.idle->target_cpu}}
                                          : ordered_json{};
    ordered_json runs = ordered_json::array();
    for (const PushRun& run : report.runs) {
        runs.push_back(
            {{"seconds", run.seconds}, {"source_cpu_seconds", run.source_cpu}, {"target_cpu_seconds", run.target_cpu}});
    }
    const ordered_json result{{"benchmark", "push"},
                              {"uri", options.uri},
                              {"connection", report.connection},
                              {"size_bytes", options.size},
                              {"extent_bytes", options.extent},
                              {"lanes", options.lanes},
                              {"fresh_target", options.fresh},
                              {"verified", options.verify},
                              {"warm_up", options.warm_up},
                              {"bytes_per_second", as_json(rate)},
                              {"seconds", as_json(seconds)},
                              {"source_cpu_seconds", as_json(source)},
                              {"target_cpu_seconds", as_json(target)},
                              {"cpu_seconds_per_gib", both.median / size * gib},
                              {"wire_bytes", report.wire_bytes},
                              {"steps_seconds", std::move(steps)},
                              {"first_push_seconds", report.first_push},
                              {"idle", std::move(idle)},
                              {"prepared", options.prepare},
                              {"runs", std::move(runs)}};
    std::printf("%s\n", result.dump().c_str());
}

int push(PushOptions options, bool listen, bool json) {
    if (listen) {
        const auto served = serve_push(options);
        return served ? 0 : fail(served.error());
    }
    bool said = false;
    options.failed = [&](const Error& error) {
        fail(error);
        said = true;
    };
    const auto report = run_push(options);
    if (!report) {
        return said ? 1 : fail(report.error());
    }
    print_push(options, *report, json);
    return 0;
}

int control(const ControlOptions& options, bool listen, bool json) {
    if (listen) {
        const auto served = serve_control(options);
        return served ? 0 : fail(served.error());
    }
    const auto report = run_control(options);
    if (!report) {
        return fail(report.error());
    }
    if (json) {
        const ordered_json result{
            {"benchmark", "control"},     {"uri", options.uri},   {"connection", report->connection},
            {"size_bytes", options.size}, {"runs", options.runs}, {"round_trip_seconds", as_json(report->round_trip)}};
        std::printf("%s\n", result.dump().c_str());
    } else {
        std::printf("%s\n%zu bytes there and back %u times: %.1f us (%.1f to %.1f)\n", report->connection.c_str(), options.size,
                    options.runs, report->round_trip.median * 1e6, report->round_trip.min * 1e6, report->round_trip.max * 1e6);
    }
    return 0;
}

void print_scan(const DirtyScanReport& report, bool json) {
    const auto size = static_cast<double>(report.size);
    if (json) {
        const ordered_json result{{"benchmark", "dirty-scan"},
                                  {"tracker", report.tracker},
                                  {"size_bytes", report.size},
                                  {"populated", report.populated},
                                  {"start_seconds", report.start_seconds},
                                  {"collect_seconds", as_json(report.collect_seconds)},
                                  {"collect_seconds_per_gib", report.collect_seconds.median / size * gib},
                                  {"dirty_bytes", report.dirty_bytes}};
        std::printf("%s\n", result.dump().c_str());
    } else {
        std::printf("%6.1f GiB  %s  idle round %9.3f ms (%.3f to %.3f)  %7.3f ms/GiB  start %9.3f ms%s%s\n", size / gib,
                    report.tracker.c_str(), report.collect_seconds.median * 1e3, report.collect_seconds.min * 1e3,
                    report.collect_seconds.max * 1e3, report.collect_seconds.median * 1e3 / size * gib,
                    report.start_seconds * 1e3, report.populated ? "" : "  (RAM never touched)",
                    report.dirty_bytes == 0 ? "" : "  (NOT IDLE: pages were dirty)");
    }
    std::fflush(stdout);
}

int dirty_scan(DirtyScanOptions options, const std::vector<std::uint64_t>& sizes, bool untouched, bool json) {
    for (const std::uint64_t size : sizes) {
        options.size = size;
        // RAM that does not fit is scanned untouched, and the result says so: the page tables are the same, for the tracker fills
        // them.
        options.populate = !untouched && available_memory() > size + (std::uint64_t{1} << 30);
        const auto report = run_dirty_scan(options);
        if (!report) {
            return fail(report.error());
        }
        print_scan(*report, json);
    }
    return 0;
}

int run(int argc, char** argv) {
    CLI::App app{"Measures parts of Pageferry on this machine.", "pageferry-perf"};
    app.set_version_flag("--version", "pageferry-perf " PAGEFERRY_VERSION);
    app.require_subcommand(1);
    app.footer(examples);
    bool json = false;
    bool listen = false;
    int code = 0;

    PushOptions push_options;
    CLI::App* push_command =
        app.add_subcommand("push", "How fast a transport moves RAM: all of it, up to the fence, several times");
    push_command->add_option("URI", push_options.uri, "Where the other side listens, or with --listen where to")->required();
    push_command->add_flag("--listen", listen, "Serve one pushing side, then end");
    push_command->add_option("--size", push_options.size, "Bytes of RAM, such as 512M (default 1G)")
        ->transform(CLI::AsSizeValue(false));
    push_command->add_option("--extent", push_options.extent, "Bytes of one push (default 1M)")
        ->transform(CLI::AsSizeValue(false));
    push_command->add_option("--lanes", push_options.lanes, "Bulk lanes (default 2)")->check(CLI::Range(1U, 64U));
    push_command->add_option("--runs", push_options.runs, "Runs that count (default 5)")->check(CLI::Range(1U, 10'000U));
    push_command->add_option("--warm-up", push_options.warm_up, "Runs before them that do not (default 1)")
        ->check(CLI::Range(0U, 10'000U));
    push_command->add_flag("--fresh", push_options.fresh,
                           "The target allocates its memory anew in each run, as a destination does");
    push_command->add_flag("--prepare", push_options.prepare, "Tell the transport beforehand what will be pushed");
    push_command->add_option("--idle", push_options.idle, "Seconds to do nothing for before the runs, and what that costs")
        ->check(CLI::Range(0.0, 3600.0));
    push_command->add_flag("!--no-verify", push_options.verify, "Do not compare what arrived after the last run");
    push_command
        ->add_option_function<double>(
            "--timeout",
            [&](const double& seconds) { push_options.timeout = std::chrono::milliseconds{std::llround(seconds * 1000)}; },
            "Longest wait for the other side, seconds (default 60)")
        ->check(CLI::Range(0.1, 86'400.0));
    push_command
        ->add_option_function<double>(
            "--dead-peer",
            [&](const double& seconds) { push_options.dead_peer = std::chrono::milliseconds{std::llround(seconds * 1000)}; },
            "The transport takes a peer that answers nothing for so long as gone, seconds (default 10)")
        ->check(CLI::Range(0.1, 86'400.0));
    push_command->add_flag("--json", json, "One JSON object");
    push_command->callback([&] {
        const bool wrong = push_options.size == 0 || push_options.extent == 0 || push_options.size % 4096 != 0 ||
                           push_options.extent % 4096 != 0;
        if (wrong) {
            throw CLI::ValidationError{"--size and --extent", "must be multiples of 4096"};
        }
        code = push(push_options, listen, json);
    });

    ControlOptions control_options;
    CLI::App* control_command =
        app.add_subcommand("control", "How long a message on a transport's control lane takes there and back");
    control_command->add_option("URI", control_options.uri, "Where the other side listens, or with --listen where to")
        ->required();
    control_command->add_flag("--listen", listen, "Serve one asking side, then end");
    control_command->add_option("--size", control_options.size, "Bytes of a message (default 64)")
        ->check(CLI::Range(2U, PF_CONTROL_MAX));
    control_command->add_option("--runs", control_options.runs, "Round trips that count (default 1000)")
        ->check(CLI::Range(1U, 10'000'000U));
    control_command->add_option("--warm-up", control_options.warm_up, "Round trips before them that do not (default 100)")
        ->check(CLI::Range(0U, 10'000'000U));
    control_command->add_flag("--json", json, "One JSON object");
    control_command->callback([&] { code = control(control_options, listen, json); });

    DirtyScanOptions scan_options;
    std::vector<std::uint64_t> sizes{std::uint64_t{1} << 30};
    bool untouched = false;
    CLI::App* scan_command =
        app.add_subcommand("dirty-scan", "What a round of dirty tracking costs when the guest writes nothing");
    scan_command->add_option("--size", sizes, "Bytes of RAM, several with commas (default 1G)")
        ->delimiter(',')
        ->transform(CLI::AsSizeValue(false));
    scan_command->add_option("--runs", scan_options.runs, "Rounds that count (default 5)")->check(CLI::Range(1U, 10'000U));
    scan_command->add_option("--warm-up", scan_options.warm_up, "Rounds before them that do not (default 1)")
        ->check(CLI::Range(0U, 10'000U));
    scan_command->add_flag("--untouched", untouched, "The guest has touched none of its RAM");
    scan_command->add_flag("--json", json, "One JSON object for each size");
    scan_command->callback([&] { code = dirty_scan(scan_options, sizes, untouched, json); });

    add_pull_commands(app, code);
    add_qmp_command(app, code);

    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    return code;
}

} // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::exception& error) { // CLI11, nlohmann and the containers may throw
        std::fprintf(stderr, "pageferry-perf: %s\n", error.what());
        return 1;
    }
}
