// The QMP commands that Pageferry answers itself: the migration commands, and cont and stop while a migration comes in. Checks
// arguments and states, words the answers as QEMU 11.1 does, and asks the MigrationService for the rest.
//
// Threads: the monitor process's one thread. The service, capabilities and parameters outlive it.
#pragma once

#include "base/error.h"
#include "monitor/migration_target.h"
#include "monitor/qmp_message.h"

#include <nlohmann/json_fwd.hpp>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::monitor {

class Capabilities;
class MigrationService;
class Parameters;
class PassedSockets;

class MigrationCommands {
public:
    using Answer = std::function<void(QmpResult)>;

    // scheme_known: transport::installed unless a test says otherwise.
    MigrationCommands(MigrationService& service, Capabilities& capabilities, Parameters& parameters,
                      SchemeKnown scheme_known = {});

    // Whether handle() wants to see this command at all. Out of band: only those that QEMU allows there.
    [[nodiscard]] static bool knows(std::string_view command, bool out_of_band);

    // The command is QEMU's own business after all. begins: a migration that QEMU carries alone begins with it, unless QEMU
    // answers with an error: then native_refused() is to be called.
    using PassOn = std::function<void(bool begins)>;

    // Exactly one of the two is called, once, at once or later: answer with the result, or pass_on. sockets: those the client has
    // passed, for `migrate fd:`; used before this returns.
    void handle(const std::string& command, const nlohmann::json& arguments, const Answer& answer, const PassOn& pass_on,
                PassedSockets& sockets);
    void native_refused();

    // QEMU's MIGRATION and MIGRATION_PASS events are shown to users.
    [[nodiscard]] bool is_native() const;

private:
    void migrate(const nlohmann::json& arguments, const Answer& answer, const PassOn& pass_on, PassedSockets& sockets);
    void migrate_incoming(const nlohmann::json& arguments, const Answer& answer, const PassOn& pass_on);
    void migrate_recover(const nlohmann::json& arguments, const Answer& answer);
    void migrate_continue(const nlohmann::json& arguments, const Answer& answer);
    void without_arguments(const std::string& command, const Answer& answer);
    void run_state(bool run, const nlohmann::json& arguments, const Answer& answer, const PassOn& pass_on);
    void human_command(const nlohmann::json& arguments, const Answer& answer, const PassOn& pass_on);
    void start_native(bool incoming, const Answer& answer, const PassOn& pass_on);
    Result<void> set_capabilities(const nlohmann::json& arguments);
    Result<void> set_parameters(const nlohmann::json& arguments);
    // What the user's URIs come to under the present policy.
    [[nodiscard]] Result<std::vector<std::string>> choose(const MigrationTarget& target) const;
    [[nodiscard]] bool left_to_qemu(const MigrationTarget& target) const;
    [[nodiscard]] Result<void> may_migrate(bool resume) const;
    [[nodiscard]] bool incoming_has_started() const;
    [[nodiscard]] Result<void> may_take_incoming() const;
    [[nodiscard]] Result<void> may_switch_on(const Capabilities& next) const;

    MigrationService& service_;
    Capabilities& capabilities_;
    Parameters& parameters_;
    SchemeKnown scheme_known_;
    std::shared_ptr<bool> incoming_started_; // QEMU's `once`: from the first migrate-incoming that was accepted, for ever
};

} // namespace pageferry::monitor
