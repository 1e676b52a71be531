#include "cli/probe.h"

#include "cli/probe_connect.h"
#include "cli/probe_dialog.h"
#include "cli/probe_host.h"
#include "cli/probe_render.h"
#include "cli/signals.h"
#include "cli/units.h"
#include "transport/loader.h"
#include "transport/uri.h"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <utility>

namespace pageferry::cli {

namespace {

using nlohmann::json;

void put(const std::string& text) {
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout); // the next step may take its time
}

ExitCode complain(const Error& error) {
    std::fprintf(stderr, "pageferry: %s\n", error.to_string().c_str());
    return error.code == ErrorCode::invalid_argument ? exit_usage : exit_failed;
}

ExitCode probe_this_host(const ProbeOptions& options) {
    const auto sections = probe_host();
    put(options.json ? json_sections(sections) : render_sections(sections));
    return exit_ok;
}

ExitCode probe_uri(const ProbeOptions& options) {
    if (!options.json) {
        put(options.uri + "\n");
    }
    const ProbeReport report = probe_connection(options, [&](const ProbePhase& phase) {
        if (!options.json) {
            put(render_phase(phase));
        }
    });
    put(options.json ? json_report(report) : render_outcome(report));
    if (report.ok()) {
        return exit_ok;
    }
    return report.error->code == ErrorCode::invalid_argument && report.connection.empty() ? exit_usage : exit_failed;
}

std::chrono::microseconds wall_clock() {
    return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch());
}

void tell_answer(const ProbeOptions& options, const Result<Answered>& answered) {
    const auto now = wall_clock();
    if (options.json) {
        json line{{"type", "answered"}, {"time", format_timestamp(now)}, {"ok", answered.has_value()}};
        if (answered) {
            line.update(json{{"connection", answered->peer},
                             {"software", answered->software},
                             {"bytes", answered->bytes},
                             {"round_trips", answered->round_trips}});
        } else {
            line["error"] = answered.error().to_string();
        }
        put(line.dump(-1, ' ', false, json::error_handler_t::replace) + "\n");
        return;
    }
    put(format_clock(now) + "  " +
        (answered ? answered->peer + ": " + answered->software + ", " + std::to_string(answered->round_trips) + " round trips, " +
                        format_size(answered->bytes) + " arrived as sent"
                  : answered.error().to_string()) +
        "\n");
}

ExitCode listen(const ProbeOptions& options) {
    constexpr std::chrono::milliseconds slice{200};
    auto signals = Signals::take(); // before the plugin starts threads
    if (!signals) {
        return complain(signals.error());
    }
    const auto loaded = transport::load(std::string{transport::scheme_of(options.uri)});
    if (!loaded) {
        return complain(loaded.error());
    }
    auto listener = loaded->listen(options.uri, transport::Options{.lanes = options.lanes, .memory_bytes = probe_scratch});
    if (!listener) {
        return complain(listener.error());
    }
    put(options.json ? json{{"type", "listening"}, {"uri", listener->uri()}}.dump() + "\n"
                     : "listening on " + listener->uri() + "\n");
    bool stopped = false;
    const auto stop = [&] {
        stopped = stopped || signals->pending();
        return stopped;
    };
    for (unsigned answered = 0; !stop() && (options.count == 0 || answered < options.count);) {
        std::optional<Error> stranger;
        auto accepted = listener->accept(slice, &stranger);
        if (!accepted) {
            return complain(accepted.error());
        }
        if (stranger) {
            tell_answer(options, std::unexpected(std::move(*stranger)));
        }
        if (!*accepted) {
            continue;
        }
        const auto result = answer_peer(std::move(**accepted), stop);
        if (stopped) {
            break;
        }
        tell_answer(options, result);
        answered += result ? 1U : 0U;
    }
    return exit_ok;
}

} // namespace

ExitCode run_probe(const ProbeOptions& options) {
    if (options.uri.empty()) {
        return probe_this_host(options);
    }
    if (const auto uri = transport::parse_uri(options.uri); !uri) {
        return complain(uri.error());
    }
    return options.listen ? listen(options) : probe_uri(options);
}

} // namespace pageferry::cli
