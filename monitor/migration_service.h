// What the QMP monitor asks of whoever carries out migrations: the seam between the commands and the work.
//
// monitor/ parses, validates and words the answers as QEMU does; the implementation (hypervisor/monitor_process/) drives QEMU and
// the mover. Threads: all of it on the monitor process's one thread. A Reply is called exactly once, at once or later, on that
// thread. Order: an implementation puts the MIGRATION event a command causes on the wire (EventSink) before it calls the Reply.
#pragma once

#include "base/error.h"
#include "statemachine/status.h"

#include <nlohmann/json_fwd.hpp>

#include <functional>
#include <string>
#include <vector>

namespace pageferry::monitor {

class Capabilities;
class Parameters;

// Answer of a command: success with an empty return, or QEMU's GenericError with the error's text (see QmpError).
using Reply = std::function<void(Result<void>)>;

struct MigrateRequest {
    std::vector<std::string> uris; // tried in order; already parsed and known as schemes that Pageferry carries
    bool as_asked = true;          // the first of them is the first that the user gave
    bool resume = false;
};

struct IncomingRequest {
    std::vector<std::string> uris; // all are listened on
    bool as_asked = true;          // see MigrateRequest
    bool exit_on_error = true;
};

class MigrationService {
public:
    virtual ~MigrationService() = default;

    // Destination from -incoming until the incoming migration is over: in a postcopy that is later than the guest runs here.
    [[nodiscard]] virtual statemachine::Side side() const = 0;
    [[nodiscard]] virtual statemachine::Status status() const = 0;

    // Preconditions that are the same for QEMU (status allows it, arguments are well-formed) were checked by the caller.
    // migrate_pause comes in postcopy-active and postcopy-recover, and in postcopy-recover-setup too, where it gives up the
    // attempt (QEMU refuses it there). migrate_start_postcopy comes from setup on, and never in postcopy.
    virtual void migrate(const MigrateRequest& request, Reply reply) = 0;
    virtual void migrate_incoming(const IncomingRequest& request, Reply reply) = 0;
    virtual void migrate_cancel(Reply reply) = 0;
    virtual void migrate_continue(Reply reply) = 0;
    virtual void migrate_pause(Reply reply) = 0;
    virtual void migrate_recover(const std::vector<std::string>& uris, Reply reply) = 0; // all are listened on
    virtual void migrate_start_postcopy(Reply reply) = 0;

    // The `return` object of query-migrate.
    [[nodiscard]] virtual nlohmann::json query_migrate() const = 0;

    // Whether this host can take a guest by postcopy; the error is why not.
    [[nodiscard]] virtual Result<void> postcopy_possible() { return {}; }

    // A user's cont or stop. True: it was remembered, not carried out (destination, while the guest has not been permitted to
    // run: QEMU's autostart while in inmigrate; source, while it stands still for the switchover). False: it is none of our
    // business and goes to QEMU. An error is the command's answer: QEMU's, while the guest must not run here.
    virtual Result<bool> hold_run_state(bool run) = 0;

    // A migration Pageferry does not carry (fd:, exec:, file:) is about to be handed to QEMU: put QEMU's own capabilities and
    // parameters as the user set them, then call the reply; on success the caller passes the command on. From then to the end of
    // that migration is_native() is true: the migration commands, query-migrate and MIGRATION events are QEMU's own.
    virtual void begin_native(bool incoming, Reply reply) = 0;
    [[nodiscard]] virtual bool is_native() const = 0;
    // QEMU has answered that command with an error: it did not begin.
    virtual void native_refused() = 0;

    // Values the user changed, already validated and stored; for a migration under way they take effect at once where that makes
    // sense.
    virtual void parameters_changed(const Parameters& parameters) = 0;
};

} // namespace pageferry::monitor
