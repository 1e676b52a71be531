#include "cli/commands.h"
#include "cli/session.h"

#include <nlohmann/json.hpp>

#include <cstdio>

namespace pageferry::cli {

namespace {

using std::chrono::steady_clock;

auto deadline() {
    return steady_clock::now() + answer_time;
}

// A destination listens, and that is all there is to do on its side.
ExitCode listen_again(Session& session, const RecoverOptions& options) {
    if (auto answer = session.client.execute("migrate-recover", where_to(options.uris), deadline()); !answer) {
        return complain(answer.error());
    }
    std::string where;
    for (const std::string& uri : options.uris) {
        where += (where.empty() ? "" : " ") + uri;
    }
    std::fprintf(stderr,
                 "pageferry: the destination listens at %s; now at the source: pageferry recover --qmp SOURCE-MONITOR URI\n",
                 where.c_str());
    return exit_ok;
}

} // namespace

ExitCode run_postcopy(const MonitorOptions& options) {
    auto session = open_session(options);
    if (!session) {
        return complain(session.error());
    }
    const auto answer = session->client.execute("migrate-start-postcopy", nullptr, deadline());
    return answer ? exit_ok : complain(answer.error());
}

ExitCode run_pause(const MonitorOptions& options) {
    auto session = open_session(options);
    if (!session) {
        return complain(session.error());
    }
    const auto events = enable_events(session->client);
    if (!events) {
        return complain(events.error());
    }
    if (const auto answer = session->client.execute("migrate-pause", nullptr, deadline()); !answer) {
        return complain(answer.error());
    }
    FollowOptions how;
    how.events = *events;
    how.cancel_on_interrupt = false;
    how.leave_when_paused = true;
    const ExitCode code = follow_to_end(*session, options, how);
    if (code == exit_ok) { // the last page came before the pause
        std::fprintf(stderr, "pageferry: too late: the migration has completed\n");
        return exit_failed;
    }
    return code == exit_paused ? exit_ok : code;
}

ExitCode run_recover(const RecoverOptions& options) {
    auto session = open_session(options.monitor);
    if (!session) {
        return complain(session.error());
    }
    const auto before = query(session->client);
    if (!before) {
        return complain(before.error());
    }
    const auto events = enable_events(session->client);
    if (!events) {
        return complain(events.error());
    }
    if (const auto set = apply(session->client, options.settings); !set) {
        return complain(set.error());
    }
    if (options.incoming || (before->status == "postcopy-paused" && !before->source)) {
        return listen_again(*session, options);
    }
    auto arguments = where_to(options.uris);
    arguments["resume"] = true;
    if (const auto started = session->client.execute("migrate", arguments, deadline()); !started) {
        return complain(started.error());
    }
    if (options.detach) {
        return exit_ok;
    }
    FollowOptions how;
    how.events = *events;
    how.lanes = lanes_in_use(session->client);
    how.resumed = true;
    return follow_to_end(*session, options.monitor, how, options.uris);
}

} // namespace pageferry::cli
