#include "cli/commands.h"

#include "cli/reporter.h"
#include "cli/session.h"

#include <nlohmann/json.hpp>

#include <cstdio>

namespace pageferry::cli {

using std::chrono::steady_clock;

ExitCode run_migrate(const MigrateOptions& options) {
    auto session = open_session(options.monitor);
    if (!session) {
        return complain(session.error());
    }
    const auto events = enable_events(session->client);
    if (!events) {
        return complain(events.error());
    }
    Settings settings = options.settings;
    if (options.postcopy && !mentions_capability(settings, "postcopy-ram")) {
        settings.capabilities.emplace_back("postcopy-ram=on");
    }
    if (const auto set = apply(session->client, settings); !set) {
        return complain(set.error());
    }
    const auto lanes = lanes_in_use(session->client);
    const auto started = session->client.execute("migrate", where_to(options.uris), steady_clock::now() + answer_time);
    if (!started) {
        // The migration is what was asked for, so its refusal is its failure.
        return complain(started.error(), started.error().code == ErrorCode::refused ? exit_failed : code_for(started.error()));
    }
    if (options.detach) {
        return exit_ok;
    }
    const ExitCode code = follow_to_end(*session, options.monitor,
                                        FollowOptions{.events = *events,
                                                      .cancel_on_interrupt = true,
                                                      .wait_for_start = false,
                                                      .timeout = options.timeout,
                                                      .lanes = lanes,
                                                      .postcopy = options.postcopy},
                                        options.uris);
    if (code == exit_failed && options.postcopy) {
        std::fprintf(stderr, "pageferry: with --postcopy the destination needs the capability postcopy-ram as well, before it is "
                             "told to wait for the migration\n");
    }
    return code;
}

ExitCode run_watch(const MonitorOptions& options) {
    auto session = open_session(options);
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
    auto session = open_session(options);
    if (!session) {
        return complain(session.error());
    }
    const auto snapshot = query(session->client);
    if (!snapshot) {
        return complain(snapshot.error());
    }
    ProgressView view = Progress{}.update(*snapshot, steady_clock::now());
    view.time = wall_clock();
    if (is_under_way(view.snapshot.status)) {
        count_until(view.snapshot.history, view.time);
    }
    if (is_under_way(snapshot->status)) {
        view.lanes = lanes_in_use(session->client);
    }
    if (options.json) {
        std::printf("%s\n", json_progress(view).c_str());
    } else {
        const bool paused = snapshot->status == "postcopy-paused";
        std::fputs(render_status(view, paused ? recovery_advice(*snapshot, options.address, {}) : "").c_str(), stdout);
    }
    return exit_ok;
}

ExitCode run_cancel(const MonitorOptions& options) {
    auto session = open_session(options);
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
