#include "monitor/migration_commands.h"

#include "monitor/arguments.h"
#include "monitor/capabilities.h"
#include "monitor/migration_service.h"
#include "monitor/parameters.h"
#include "monitor/passed_sockets.h"
#include "monitor/transport_choice.h"
#include "transport/loader.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <utility>

namespace pageferry::monitor {

namespace {

using nlohmann::json;
using statemachine::Side;
using statemachine::Status;

constexpr std::array<std::string_view, 15> answered{
    "migrate",
    "migrate-incoming",
    "migrate_cancel",
    "migrate-continue",
    "migrate-pause",
    "migrate-recover",
    "migrate-start-postcopy",
    "migrate-set-capabilities",
    "query-migrate-capabilities",
    "migrate-set-parameters",
    "query-migrate-parameters",
    "query-migrate",
    "cont",
    "stop",
    "human-monitor-command",
};
constexpr std::array<std::string_view, 2> out_of_band_too{"migrate-pause", "migrate-recover"};

bool in_postcopy(Status status) {
    switch (status) {
    case Status::postcopy_device:
    case Status::postcopy_active:
    case Status::postcopy_paused:
    case Status::postcopy_recover_setup:
    case Status::postcopy_recover: return true;
    default: return false;
    }
}

QmpResult result_of(const Result<void>& done) {
    if (!done) {
        return std::unexpected{qmp_error(done.error())};
    }
    return json::object();
}

Reply reply_to(const MigrationCommands::Answer& answer) {
    return [answer](const Result<void>& done) { answer(result_of(done)); };
}

void refuse(const MigrationCommands::Answer& answer, const Error& error) {
    answer(std::unexpected{qmp_error(error)});
}

} // namespace

MigrationCommands::MigrationCommands(MigrationService& service, Capabilities& capabilities, Parameters& parameters,
                                     SchemeKnown scheme_known)
    : service_(service), capabilities_(capabilities), parameters_(parameters), scheme_known_(std::move(scheme_known)),
      incoming_started_(std::make_shared<bool>(false)) {
    if (!scheme_known_) {
        scheme_known_ = [](const std::string& scheme) { return transport::installed(scheme); };
    }
}

bool MigrationCommands::knows(std::string_view command, bool out_of_band) {
    const std::span<const std::string_view> names =
        out_of_band ? std::span<const std::string_view>{out_of_band_too} : std::span<const std::string_view>{answered};
    return std::ranges::find(names, command) != names.end();
}

bool MigrationCommands::is_native() const {
    return service_.is_native();
}

void MigrationCommands::handle(const std::string& command, const nlohmann::json& arguments, const Answer& answer,
                               const PassOn& pass_on, PassedSockets& sockets) {
    if (command == "cont" || command == "stop") {
        return run_state(command == "cont", arguments, answer, pass_on);
    }
    if (command == "human-monitor-command") {
        human_command(arguments, answer, pass_on);
    } else if (service_.is_native()) {
        pass_on(false);
    } else if (command == "migrate") {
        migrate(arguments, answer, pass_on, sockets);
    } else if (command == "migrate-incoming") {
        migrate_incoming(arguments, answer, pass_on);
    } else if (command == "migrate-recover") {
        migrate_recover(arguments, answer);
    } else if (command == "migrate-continue") {
        migrate_continue(arguments, answer);
    } else if (command == "migrate-set-capabilities") {
        answer(result_of(set_capabilities(arguments)));
    } else if (command == "migrate-set-parameters") {
        answer(result_of(set_parameters(arguments)));
    } else if (const auto done = Arguments{arguments}.finish(); !done) {
        refuse(answer, done.error());
    } else {
        without_arguments(command, answer);
    }
}

void MigrationCommands::run_state(bool run, const nlohmann::json& arguments, const Answer& answer, const PassOn& pass_on) {
    if (!arguments.empty()) {
        return pass_on(false); // for QEMU's own refusal
    }
    const auto held = service_.hold_run_state(run);
    if (!held) {
        refuse(answer, held.error());
    } else if (*held) {
        answer(json::object());
    } else {
        pass_on(false);
    }
}

void MigrationCommands::without_arguments(const std::string& command, const Answer& answer) {
    const Status status = service_.status();
    if (command == "query-migrate") {
        answer(service_.query_migrate());
    } else if (command == "query-migrate-capabilities") {
        answer(capabilities_.query());
    } else if (command == "query-migrate-parameters") {
        answer(parameters_.query());
    } else if (command == "migrate_cancel") {
        const bool source = service_.side() == Side::source;
        if (source && in_postcopy(status)) {
            refuse(answer, refuse_with("Postcopy migration in progress, cannot cancel.").error());
        } else if (source && statemachine::is_running(status)) {
            service_.migrate_cancel(reply_to(answer));
        } else {
            answer(json::object()); // nothing to cancel is no error
        }
    } else if (command == "migrate-pause") {
        // QEMU refuses it in postcopy-recover-setup, where only a source can be: a connection that is being set up and hangs
        // would hold the guest.
        if (status == Status::postcopy_active || status == Status::postcopy_recover || status == Status::postcopy_recover_setup) {
            service_.migrate_pause(reply_to(answer));
        } else {
            refuse(answer,
                   refuse_with("migrate-pause is currently only supported during postcopy-active or postcopy-recover state")
                       .error());
        }
    } else if (command == "migrate-start-postcopy") {
        if (!capabilities_.on("postcopy-ram") && !capabilities_.on("dirty-bitmaps")) {
            refuse(answer, refuse_with("Enable postcopy with migrate_set_capability before the start of migration").error());
        } else if (service_.side() == Side::destination || status == Status::none) {
            refuse(answer, refuse_with("Postcopy must be started after migration has been started").error());
        } else if (!statemachine::is_running(status) || in_postcopy(status)) {
            answer(json::object()); // too late is no error, for nobody can know
        } else {
            service_.migrate_start_postcopy(reply_to(answer));
        }
    } else {
        answer(std::unexpected{
            QmpError{.error_class = "CommandNotFound", .desc = "The command " + command + " has not been found"}});
    }
}

Result<void> MigrationCommands::may_migrate(bool resume) const {
    const Status status = service_.status();
    const bool source = service_.side() == Side::source;
    if (resume) {
        if (!source || status != Status::postcopy_paused) {
            return refuse_with("Cannot resume if there is no paused migration");
        }
        return {};
    }
    // A guest that came by postcopy may run here already, and moves on only when it is whole.
    if (source ? statemachine::is_running(status) : in_postcopy(status)) {
        return refuse_with("There's a migration process in progress");
    }
    if (!source) {
        return refuse_with("Guest is waiting for an incoming migration");
    }
    return {};
}

bool MigrationCommands::incoming_has_started() const {
    return *incoming_started_ || (service_.side() == Side::destination && service_.status() != Status::none);
}

Result<void> MigrationCommands::may_take_incoming() const {
    if (incoming_has_started()) {
        return refuse_with("The incoming migration has already been started");
    }
    if (service_.side() != Side::destination) {
        return refuse_with("'-incoming' was not specified on the command line");
    }
    return {};
}

bool MigrationCommands::left_to_qemu(const MigrationTarget& target) const {
    return target.carrier == MigrationTarget::Carrier::qemu || parameters_.carrier() == CarrierPolicy::qemu;
}

void MigrationCommands::migrate(const nlohmann::json& arguments, const Answer& answer, const PassOn& pass_on,
                                PassedSockets& sockets) {
    Arguments reader{arguments};
    const TargetArguments where{reader};
    (void)reader.boolean("detach"); // for QEMU's human monitor; over QMP every migrate is detached
    const bool resume = reader.boolean("resume").value_or(false);
    if (const auto done = reader.finish(); !done) {
        return refuse(answer, done.error());
    }
    auto target = where.resolve(false, scheme_known_);
    if (!target) {
        return refuse(answer, target.error());
    }
    if (const auto may = may_migrate(resume); !may) {
        return refuse(answer, may.error());
    }
    // A connection that the client has made already, with a destination of ours.
    const std::string passed = target->uris.front().starts_with("fd:") ? target->uris.front().substr(3) : "";
    if (const auto peer = sockets.peer(passed); peer && parameters_.carrier() == CarrierPolicy::pageferry) {
        *target = {.carrier = MigrationTarget::Carrier::pageferry, .uris = {*peer}};
    }
    if (left_to_qemu(*target)) {
        if (resume) {
            return refuse(
                answer,
                refuse_with("Pageferry cannot resume over " + target->uris.front() + ": use tcp:, rdma: or unix:").error());
        }
        return start_native(false, answer, pass_on);
    }
    const auto uris = choose(*target);
    if (!uris) {
        return refuse(answer, uris.error());
    }
    sockets.shut_down(passed);
    service_.migrate({.uris = *uris, .as_asked = uris->front() == target->uris.front(), .resume = resume}, reply_to(answer));
}

Result<std::vector<std::string>> MigrationCommands::choose(const MigrationTarget& target) const {
    return choose_transports(target.uris, parameters_.rdma());
}

void MigrationCommands::migrate_incoming(const nlohmann::json& arguments, const Answer& answer, const PassOn& pass_on) {
    Arguments reader{arguments};
    const TargetArguments where{reader};
    const bool exit_on_error = reader.boolean("exit-on-error").value_or(true);
    if (const auto done = reader.finish(); !done) {
        return refuse(answer, done.error());
    }
    if (const auto may = may_take_incoming(); !may) {
        return refuse(answer, may.error());
    }
    const auto target = where.resolve(true, scheme_known_);
    if (!target) {
        return refuse(answer, target.error());
    }
    if (left_to_qemu(*target)) {
        return start_native(true, answer, pass_on); // QEMU has its own `once`
    }
    const auto uris = choose(*target);
    if (!uris) {
        return refuse(answer, uris.error());
    }
    service_.migrate_incoming({.uris = *uris, .as_asked = uris->front() == target->uris.front(), .exit_on_error = exit_on_error},
                              [answer, started = incoming_started_](const Result<void>& done) {
                                  *started = *started || done.has_value();
                                  answer(result_of(done));
                              });
}

void MigrationCommands::migrate_recover(const nlohmann::json& arguments, const Answer& answer) {
    Arguments reader{arguments};
    const auto several = read_uris(reader);
    const std::vector<std::string> given = several ? *several : std::vector{reader.required_string("uri")};
    if (const auto done = reader.finish(); !done) {
        return refuse(answer, done.error());
    }
    if (service_.side() != Side::destination || service_.status() != Status::postcopy_paused) {
        return refuse(answer, refuse_with("Migrate recover can only be run when postcopy is paused.").error());
    }
    const auto target = several ? resolve_uris(given, scheme_known_) : resolve_uri(given.front(), scheme_known_);
    if (!target) {
        return refuse(answer, target.error());
    }
    if (target->carrier == MigrationTarget::Carrier::qemu) {
        return refuse(answer,
                      refuse_with("Pageferry cannot recover over " + given.front() + ": use tcp:, rdma: or unix:").error());
    }
    const auto uris = choose(*target);
    if (!uris) {
        return refuse(answer, uris.error());
    }
    service_.migrate_recover(*uris, reply_to(answer));
}

void MigrationCommands::migrate_continue(const nlohmann::json& arguments, const Answer& answer) {
    Arguments reader{arguments};
    const std::string wanted = reader.required_enum("state", statemachine::status_names());
    if (const auto done = reader.finish(); !done) {
        return refuse(answer, done.error());
    }
    // QEMU looks at the outgoing migration alone.
    const Status status = service_.side() == Side::source ? service_.status() : Status::none;
    if (wanted != statemachine::name_of(status)) {
        return refuse(answer,
                      refuse_with("Migration not in expected state: " + std::string{statemachine::name_of(status)}).error());
    }
    if (status == Status::pre_switchover) {
        service_.migrate_continue(reply_to(answer));
    } else {
        answer(json::object());
    }
}

// QEMU's own migration of the guest's RAM, begun behind our back, would know nothing of ours.
void MigrationCommands::human_command(const nlohmann::json& arguments, const Answer& answer, const PassOn& pass_on) {
    const auto line = arguments.find("command-line");
    const std::string text = line != arguments.end() && line->is_string() ? line->get<std::string>() : std::string{};
    const auto begin = text.find_first_not_of(" \t");
    const std::string name = begin == std::string::npos ? "" : text.substr(begin, text.find_first_of(" \t", begin) - begin);
    if (name != "migrate" && !name.starts_with("migrate_")) {
        return pass_on(false);
    }
    std::string command = name;
    if (command != "migrate_cancel") { // the only one that QMP writes so too
        std::ranges::replace(command, '_', '-');
    }
    if (command == "migrate-set-capability") {
        command = "migrate-set-capabilities";
    } else if (command == "migrate-set-parameter") {
        command = "migrate-set-parameters";
    }
    refuse(answer, refuse_with("The human monitor's " + name + " is QEMU's own migration, not Pageferry's: use the QMP command " +
                               command)
                       .error());
}

void MigrationCommands::native_refused() {
    service_.native_refused();
}

void MigrationCommands::start_native(bool incoming, const Answer& answer, const PassOn& pass_on) {
    service_.begin_native(incoming, [answer, pass_on](const Result<void>& done) {
        if (done) {
            pass_on(true);
        } else {
            refuse(answer, done.error());
        }
    });
}

Result<void> MigrationCommands::set_capabilities(const nlohmann::json& arguments) {
    Capabilities next = capabilities_;
    if (auto done = next.set(arguments); !done) {
        return done;
    }
    if (service_.side() == Side::source && statemachine::is_running(service_.status())) {
        return refuse_with("There's a migration process in progress");
    }
    if (service_.side() == Side::destination) {
        if (auto may = may_switch_on(next); !may) {
            return may;
        }
    }
    capabilities_ = std::move(next);
    return {};
}

// What a destination cannot be given any more, or on this host not at all.
Result<void> MigrationCommands::may_switch_on(const Capabilities& next) const {
    const auto switched_on = [&](std::string_view name) { return next.on(name) && !capabilities_.on(name); };
    if (switched_on("postcopy-ram")) {
        if (const auto possible = service_.postcopy_possible(); !possible) {
            return refuse_with("Postcopy is not supported: " + qmp_error(possible.error()).desc);
        }
    }
    if (!incoming_has_started()) {
        return {};
    }
    if (switched_on("postcopy-preempt")) {
        return refuse_with("Postcopy preempt must be set before incoming starts");
    }
    if (switched_on("multifd")) {
        return refuse_with("Multifd must be set before incoming starts");
    }
    return {};
}

Result<void> MigrationCommands::set_parameters(const nlohmann::json& arguments) {
    auto done = parameters_.set(arguments);
    if (done) {
        service_.parameters_changed(parameters_);
    }
    return done;
}

} // namespace pageferry::monitor
