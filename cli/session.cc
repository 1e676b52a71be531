#include "cli/session.h"

#include "cli/reporter.h"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <utility>

namespace pageferry::cli {

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

Result<Session> open_session(const MonitorOptions& options) {
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

ExitCode follow_to_end(Session& session, const MonitorOptions& options, const FollowOptions& how,
                       const std::vector<std::string>& uris) {
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
    const std::string& address = options.address;
    if (outcome->code == exit_paused && how.leave_when_paused) {
        return exit_paused; // as was asked for
    }
    if (outcome->code != exit_ok && outcome->code != exit_left && !last.error.empty()) {
        std::fprintf(stderr, "pageferry: migration %s: %s\n", last.status.c_str(), last.error.c_str());
    } else if (outcome->code == exit_failed || outcome->code == exit_paused) {
        std::fprintf(stderr, "pageferry: migration %s; the monitor gives no reason\n", last.status.c_str());
    } else if (outcome->code == exit_timeout) {
        std::fprintf(stderr, "pageferry: --timeout passed, the migration was cancelled\n");
    } else if (outcome->code == exit_left && outcome->left_in_postcopy && how.cancel_on_interrupt) {
        std::fprintf(stderr, "pageferry: postcopy cannot be cancelled, so it goes on; see `pageferry watch --qmp %s`\n",
                     address.c_str());
    } else if (outcome->code == exit_left && how.cancel_on_interrupt) {
        std::fprintf(stderr, "pageferry: left before the migration had ended; see `pageferry status --qmp %s`\n",
                     address.c_str());
    }
    if (outcome->code == exit_paused) {
        std::fprintf(stderr, "pageferry: %s%s\n", last.source ? "to recover it: " : "",
                     recovery_advice(last, address, uris).c_str());
    }
    if (!outcome->postcopy_refused.empty()) {
        std::fprintf(stderr, "pageferry: migrate-start-postcopy: %s\n", outcome->postcopy_refused.c_str());
    }
    return outcome->code;
}

nlohmann::json where_to(const std::vector<std::string>& uris) {
    return uris.size() == 1 ? nlohmann::json{{"uri", uris.front()}} : nlohmann::json{{"uris", uris}};
}

std::chrono::microseconds wall_clock() {
    return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch());
}

} // namespace pageferry::cli
