// What Pageferry does to QEMU itself, on the private monitor: QEMU's own migration of all that is not guest RAM, over a local
// socket, and the guest's run state around it.
//
// QEMU's own migration runs with x-ignore-shared and pause-before-switchover; its MIGRATION events end here.
// Threads: the monitor process's one thread. A Done is called once, later, never inside the call.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "monitor/qmp_backend.h"

#include <nlohmann/json.hpp>

#include <functional>
#include <string>

namespace pageferry::monitor {
class Capabilities;
class Parameters;
struct Announce;
} // namespace pageferry::monitor

namespace pageferry::hypervisor {

class QemuDriver {
public:
    using Done = std::function<void(Result<void>)>;

    struct Handlers {
        std::function<void()> stopped;            // source: the guest is stopped, device state waits to be saved
        std::function<void()> ended;              // QEMU's own migration is over, well or not: see succeeded()
        std::function<void(const Error&)> failed; // it went wrong, before ended()
    };

    QemuDriver(monitor::QmpBackend& qmp, Handlers handlers) : qmp_(qmp), handlers_(std::move(handlers)) {}

    // An event of the private monitor.
    void event(const std::string& name, const nlohmann::json& event);

    // Source. The stream's other end goes to whoever carries it; was_running tells how the guest was.
    void start_save(std::function<void(Result<Fd>, bool was_running)> done);
    // After stopped: everything is in the stream when it answers.
    void finish_save(Done done);
    // Whatever state QEMU's own migration is in: ended, and the guest as it was before.
    void restore(bool was_running, Done done);

    // Destination.
    void start_load(std::function<void(Result<Fd>)> done);
    void run(Done done); // cont
    // Tells the network where the guest is now.
    void announce(const monitor::Announce& announce);
    // QEMU fails its incoming migration, says so in its own words, and exits, as it does when a migration fails.
    void fail_incoming();

    // A migration that QEMU carries alone is about to start: the user's own settings.
    void use_settings_of(const monitor::Capabilities& capabilities, const monitor::Parameters& parameters, Done done);

    [[nodiscard]] bool active() const { return active_; } // QEMU's own migration was started and has not ended
    [[nodiscard]] bool succeeded() const { return succeeded_; }

private:
    // One command after the other, until one fails.
    struct Command {
        std::string name;
        nlohmann::json arguments = nlohmann::json::object();
    };
    void in_order(std::vector<Command> commands, Done done);
    void give_stream(std::string name, Fd socket, Done done);
    [[nodiscard]] Command capabilities_command(std::initializer_list<const char*> on) const;
    void with_listed_capabilities(Done done);
    Result<std::pair<Fd, Fd>> stream_pair();
    void migration_event(const std::string& status);
    void resume_stopped(bool was_running, const Done& done);

    monitor::QmpBackend& qmp_;
    Handlers handlers_;
    nlohmann::json listed_; // QEMU's answer to query-migrate-capabilities
    Done saved_;            // finish_save under way
    Done restored_;         // restore under way: waits for the end of QEMU's migration
    unsigned streams_ = 0;
    bool active_ = false;
    bool loading_ = false;
    bool succeeded_ = false;
};

} // namespace pageferry::hypervisor
