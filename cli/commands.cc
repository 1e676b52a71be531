#include "cli/commands.h"

#include "cli/follow.h"
#include "cli/reporter.h"
#include "cli/signals.h"
#include "monitor/client.h"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <unistd.h>
#include <utility>

namespace pageferry::cli {

namespace {

using monitor::QmpClient;
using std::chrono::steady_clock;

ExitCode complain(const Error& error, ExitCode code) {
    // An error reply is given as the monitor worded it.
    const bool reply = error.code == ErrorCode::refused && error.operation != "connect to monitor";
    std::fprintf(stderr, "pageferry: %s\n", reply ? (error.operation + ": " + error.reason).c_str() : error.to_string().c_str());
    return code;
}

// What a call to the monitor that failed means for the exit code.
ExitCode code_for(const Error& error) {
    switch (error.code) {
    case ErrorCode::refused: return error.operation == "connect to monitor" ? exit_unreachable : exit_refused;
    case ErrorCode::invalid_argument: return exit_usage;
    case ErrorCode::cancelled: return exit_left;
    default: return exit_unreachable;
    }
}

ExitCode complain(const Error& error) {
    return complain(error, code_for(error));
}

struct Session {
    Signals signals;
    QmpClient client;
};

Result<Session> open(const MonitorOptions& options) {
    auto signals = Signals::take();
    if (!signals) {
        return std::unexpected(std::move(signals.error()));
    }
    auto client = QmpClient::connect(options.address, steady_clock::now() + options.connect_timeout);
    if (!client) {
        return std::unexpected(std::move(client.error()));
    }
    client->interrupt_on(signals->descriptor()); // the number stays the same when the owner moves
    return Session{.signals = std::move(*signals), .client = std::move(*client)};
}

ExitCode follow_to_end(Session& session, const MonitorOptions& options, const FollowOptions& how) {
    const auto reporter = make_reporter(stdout, options.json, options.interval);
    const auto outcome = follow(session.client, session.signals, *reporter, how);
    if (!outcome) {
        reporter->note("");
        return complain(outcome.error());
    }
    if (outcome->started) {
        reporter->finish(outcome->summary, outcome->code);
    }
    const Snapshot& last = outcome->summary.last;
    if (outcome->code != exit_ok && !last.error.empty()) {
        std::fprintf(stderr, "pageferry: migration %s: %s\n", last.status.c_str(), last.error.c_str());
    } else if (outcome->code == exit_failed) {
        std::fprintf(stderr, "pageferry: migration %s; the monitor gives no reason\n", last.status.c_str());
    } else if (outcome->code == exit_timeout) {
        std::fprintf(stderr, "pageferry: --timeout passed, the migration was cancelled\n");
    } else if (outcome->code == exit_left && how.cancel_on_interrupt) {
        std::fprintf(stderr, "pageferry: left before the migration had ended; see `pageferry status --qmp %s`\n",
                     options.address.c_str());
    }
    return outcome->code;
}

std::chrono::microseconds wall_clock() {
    return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch());
}

} // namespace

ExitCode run_migrate(const MigrateOptions& options) {
    auto session = open(options.monitor);
    if (!session) {
        return complain(session.error());
    }
    const auto events = enable_events(session->client);
    if (!events) {
        return complain(events.error());
    }
    if (const auto set = apply(session->client, options.settings); !set) {
        return complain(set.error());
    }
    const auto lanes = lanes_in_use(session->client);
    // One goes as QEMU's own argument, so that plain QEMU takes it too.
    const nlohmann::json where =
        options.uris.size() == 1 ? nlohmann::json{{"uri", options.uris.front()}} : nlohmann::json{{"uris", options.uris}};
    const auto started = session->client.execute("migrate", where, steady_clock::now() + answer_time);
    if (!started) {
        // The migration is what was asked for, so its refusal is its failure.
        return complain(started.error(), started.error().code == ErrorCode::refused ? exit_failed : code_for(started.error()));
    }
    if (options.detach) {
        return exit_ok;
    }
    return follow_to_end(
        *session, options.monitor,
        FollowOptions{
            .events = *events, .cancel_on_interrupt = true, .wait_for_start = false, .timeout = options.timeout, .lanes = lanes});
}

ExitCode run_watch(const MonitorOptions& options) {
    auto session = open(options);
    if (!session) {
        return complain(session.error());
    }
    const auto events = enable_events(session->client);
    if (!events) {
        return complain(events.error());
    }
    return follow_to_end(*session, options,
                         FollowOptions{.events = *events,
                                       .cancel_on_interrupt = false,
                                       .wait_for_start = true,
                                       .timeout = std::nullopt,
                                       .lanes = lanes_in_use(session->client)});
}

ExitCode run_status(const MonitorOptions& options) {
    auto session = open(options);
    if (!session) {
        return complain(session.error());
    }
    const auto snapshot = query(session->client);
    if (!snapshot) {
        return complain(snapshot.error());
    }
    ProgressView view = Progress{}.update(*snapshot, steady_clock::now());
    view.time = wall_clock();
    if (is_under_way(snapshot->status)) {
        view.lanes = lanes_in_use(session->client);
    }
    if (options.json) {
        std::printf("%s\n", json_progress(view).c_str());
    } else {
        std::fputs(render_status(view).c_str(), stdout);
    }
    return exit_ok;
}

ExitCode run_cancel(const MonitorOptions& options) {
    auto session = open(options);
    if (!session) {
        return complain(session.error());
    }
    const auto before = query(session->client);
    if (!before) {
        return complain(before.error());
    }
    if (!is_under_way(before->status)) {
        std::printf("nothing to cancel: the state is %s\n", before->status.c_str());
        return exit_ok;
    }
    const auto events = enable_events(session->client);
    if (!events) {
        return complain(events.error());
    }
    if (const auto answer = session->client.execute("migrate_cancel", nullptr, steady_clock::now() + answer_time); !answer) {
        return complain(answer.error());
    }
    const ExitCode code = follow_to_end(*session, options,
                                        FollowOptions{.events = *events,
                                                      .cancel_on_interrupt = false,
                                                      .wait_for_start = false,
                                                      .timeout = std::nullopt,
                                                      .lanes = std::nullopt});
    if (code == exit_ok) { // it had already completed
        std::fprintf(stderr, "pageferry: too late: the migration has completed\n");
        return exit_failed;
    }
    return code == exit_cancelled ? exit_ok : code;
}

} // namespace pageferry::cli
