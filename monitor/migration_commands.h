// The QMP commands that Pageferry answers itself: the migration commands, and cont and stop while a migration comes in. Checks
// arguments and states, words the answers as QEMU 11.1 does, and asks the MigrationService for the rest.
//
// Threads: the monitor process's one thread. The service, capabilities and parameters outlive it.
#pragma once

#include "base/error.h"
#include "monitor/qmp_message.h"

#include <nlohmann/json_fwd.hpp>

#include <functional>
#include <string>
#include <string_view>

namespace pageferry::monitor {

class Capabilities;
class MigrationService;
class Parameters;

class MigrationCommands {
public:
    using Answer = std::function<void(QmpResult)>;
    // Whether some transport plugin carries this scheme: transport::installed unless a test says otherwise.
    using SchemeKnown = std::function<bool(const std::string& scheme)>;

    MigrationCommands(MigrationService& service, Capabilities& capabilities, Parameters& parameters,
                      SchemeKnown scheme_known = {});

    // Whether handle() wants to see this command at all. Out of band: only those that QEMU allows there.
    [[nodiscard]] static bool knows(std::string_view command, bool out_of_band);

    // Exactly one of the two is called, once, at once or later: answer with the result, or pass_on when the command is QEMU's own
    // business after all.
    void handle(const std::string& command, const nlohmann::json& arguments, Answer answer, std::function<void()> pass_on);

    // QEMU's MIGRATION and MIGRATION_PASS events are shown to users.
    [[nodiscard]] bool is_native() const;

private:
    struct Target;
    std::expected<Target, QmpError> target(const nlohmann::json& arguments, bool incoming) const;
    void migrate(const nlohmann::json& arguments, const Answer& answer, const std::function<void()>& pass_on);
    void migrate_incoming(const nlohmann::json& arguments, const Answer& answer, const std::function<void()>& pass_on);
    void migrate_continue(const nlohmann::json& arguments, const Answer& answer);
    void simple(const std::string& command, const nlohmann::json& arguments, const Answer& answer);
    void native(bool incoming, const Answer& answer, const std::function<void()>& pass_on);
    [[nodiscard]] QmpResult set_capabilities(const nlohmann::json& arguments);
    [[nodiscard]] QmpResult set_parameters(const nlohmann::json& arguments);

    MigrationService& service_;
    Capabilities& capabilities_;
    Parameters& parameters_;
    SchemeKnown scheme_known_;
};

} // namespace pageferry::monitor
