#include "cli/probe_connect.h"

#include "cli/probe_dialog.h"
#include "transport/loader.h"
#include "transport/uri.h"

#include <sys/random.h>

#include <cerrno>
#include <optional>
#include <utility>

namespace pageferry::cli {

namespace {

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::steady_clock;

const char* name_of_phase(pf_phase phase) {
    switch (phase) {
    case PF_PHASE_RESOLVING_ADDRESS: return "resolving address";
    case PF_PHASE_RESOLVING_ROUTE: return "resolving route";
    case PF_PHASE_CONNECTING: return "connecting";
    case PF_PHASE_HANDSHAKE: return "handshake";
    case PF_PHASE_ESTABLISHED: return "established";
    }
    return "connect";
}

// The phase that is going on, and how long.
class Phases {
public:
    Phases(ProbeReport& report, const std::function<void(const ProbePhase&)>& told) : report_(report), told_(told) {}

    void begin(std::string name, std::string detail = {}) {
        name_ = std::move(name);
        detail_ = std::move(detail);
        began_ = steady_clock::now();
    }
    void end() {
        report_.phases.push_back(
            ProbePhase{.name = name_, .detail = detail_, .took = duration_cast<microseconds>(steady_clock::now() - began_)});
        told_(report_.phases.back());
    }
    void detail(std::string detail) { detail_ = std::move(detail); }
    void fail(Error error) {
        end(); // how long it took is part of the answer
        report_.failed_in = name_;
        report_.error = std::move(error);
    }

private:
    ProbeReport& report_;
    const std::function<void(const ProbePhase&)>& told_;
    std::string name_;
    std::string detail_;
    steady_clock::time_point began_;
};

Result<transport::SessionId> random_session() {
    transport::SessionId id{};
    if (::getrandom(id.data(), id.size(), 0) != static_cast<ssize_t>(id.size())) {
        return std::unexpected(errno_error(errno, "getrandom"));
    }
    return id;
}

Result<void> connect(transport::Connection& connection, const ProbeOptions& options, Phases& phases) {
    bool first = true;
    return connection.connect(options.timeout, [&](pf_phase phase, const std::string& detail) {
        if (!std::exchange(first, false)) {
            phases.end();
        }
        phases.begin(name_of_phase(phase), detail);
    });
}

} // namespace

ProbeReport probe_connection(const ProbeOptions& options, const std::function<void(const ProbePhase&)>& told) {
    ProbeReport report;
    report.uri = options.uri;
    Phases phases{report, told};
    phases.begin("load transport");
    const auto session = random_session();
    if (!session) {
        phases.fail(session.error());
        return report;
    }
    const std::string scheme{transport::scheme_of(options.uri)};
    const auto loaded = transport::load(scheme);
    if (!loaded) {
        phases.fail(loaded.error());
        return report;
    }
    report.plugin = transport::find_plugin(scheme).value_or("").string();
    report.transport = loaded->name();
    phases.detail(report.plugin);
    phases.end();

    phases.begin("usable here");
    if (auto usable = loaded->probe(options.uri); !usable) {
        phases.fail(std::move(usable.error()));
        return report;
    }
    phases.end();

    phases.begin("open");
    auto connection = loaded->open(options.uri, transport::Options{.lanes = options.lanes,
                                                                   .dead_peer = options.timeout,
                                                                   .handshake = options.timeout,
                                                                   .session = *session,
                                                                   .memory_bytes = probe_scratch});
    if (!connection) {
        phases.fail(std::move(connection.error()));
        return report;
    }
    if (auto connected = connect(*connection, options, phases); !connected) {
        phases.fail(std::move(connected.error()));
        return report;
    }
    report.connection = connection->describe();
    report.lanes = connection->counters().lanes;

    const std::size_t before = report.phases.size();
    ask_peer(std::move(*connection), *session, probe_scratch, options.timeout, report);
    for (std::size_t i = before; i < report.phases.size(); ++i) {
        told(report.phases[i]);
    }
    return report;
}

} // namespace pageferry::cli
