// What the monitor's tests stand on: one event loop run by the test itself, a client on a socket, a scripted peer in the role of
// QEMU, and a MigrationService that notes what it is asked.
#pragma once

#include "base/fd.h"
#include "monitor/capabilities.h"
#include "monitor/json_stream.h"
#include "monitor/migration_commands.h"
#include "monitor/migration_service.h"
#include "monitor/parameters.h"
#include "monitor/qmp_server.h"

#include <utility> // before Boost 1.74

#include <boost/asio/io_context.hpp>
#include <nlohmann/json.hpp>

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::monitor::test {

using nlohmann::json;

std::pair<Fd, Fd> socket_pair();

// Runs the loop until the condition holds; a test that waits longer than half a minute has failed, and says so by false.
bool run_until(boost::asio::io_context& io, const std::function<bool()>& condition);

// A stream of JSON messages on a socket, read and written without ever blocking the loop.
class Peer {
public:
    Peer(boost::asio::io_context& io, Fd socket);

    void send(std::string bytes, std::vector<int> numbers = {}); // everything, however long the other side takes
    void say(const json& message) { send(message.dump() + "\r\n"); }
    bool try_send(std::string_view bytes); // false: would block
    json next();                           // the next message; null when none comes
    std::string next_text();
    json reply();  // the next one that is no event; events go to `events`
    bool closed(); // waits for the end
    bool quiet();  // nothing to read, after everything pending has run
    void shut_writing();
    void close() { socket_.reset(); }
    std::deque<json> events;
    std::vector<Fd> fds; // every descriptor received

private:
    void read_some();
    boost::asio::io_context& io_;
    Fd socket_;
    JsonStream stream_;
    bool end_ = false;
};

class FakeService final : public MigrationService {
public:
    statemachine::Side at = statemachine::Side::source;
    statemachine::Status now = statemachine::Status::none;
    bool native = false;
    bool hold = false;
    std::string hold_refusal;     // of cont and stop
    std::string postcopy_refusal; // why this host cannot do it
    bool refuse_native = false;
    std::vector<std::string> asked;
    std::function<void(Reply)> on_migrate; // default: success at once

    [[nodiscard]] statemachine::Side side() const override { return at; }
    [[nodiscard]] statemachine::Status status() const override { return now; }
    void migrate(const MigrateRequest& request, Reply reply) override {
        asked.push_back("migrate " + list(request.uris) + (request.as_asked ? "" : " instead") +
                        (request.resume ? " resume" : ""));
        if (on_migrate) {
            on_migrate(std::move(reply));
        } else {
            reply({});
        }
    }
    void migrate_incoming(const IncomingRequest& request, Reply reply) override {
        asked.push_back("migrate-incoming " + list(request.uris) + (request.as_asked ? "" : " instead") +
                        (request.exit_on_error ? "" : " stay"));
        reply({});
    }
    void migrate_cancel(Reply reply) override { note("migrate_cancel", reply); }
    void migrate_continue(Reply reply) override { note("migrate-continue", reply); }
    void migrate_pause(Reply reply) override { note("migrate-pause", reply); }
    void migrate_recover(const std::vector<std::string>& uris, Reply reply) override {
        note("migrate-recover " + list(uris), reply);
    }
    void migrate_start_postcopy(Reply reply) override { note("migrate-start-postcopy", reply); }
    [[nodiscard]] json query_migrate() const override { return {{"status", "fake"}}; }
    [[nodiscard]] Result<void> postcopy_possible() override {
        if (!postcopy_refusal.empty()) {
            return refuse_with(postcopy_refusal);
        }
        return {};
    }
    Result<bool> hold_run_state(bool run) override {
        asked.emplace_back(run ? "cont" : "stop");
        if (!hold_refusal.empty()) {
            return refuse_with(hold_refusal);
        }
        return hold;
    }
    void begin_native(bool incoming, Reply reply) override {
        asked.emplace_back(incoming ? "native incoming" : "native");
        if (refuse_native) {
            reply(std::unexpected{make_error(ErrorCode::state, "hand over", "QEMU", "not now")});
            return;
        }
        native = true;
        reply({});
    }
    [[nodiscard]] bool is_native() const override { return native; }
    void native_refused() override {
        asked.emplace_back("native refused");
        native = false;
    }
    void parameters_changed(const Parameters&) override { asked.emplace_back("parameters"); }

private:
    static std::string list(const std::vector<std::string>& uris) {
        std::string text;
        for (const auto& uri : uris) {
            text += (text.empty() ? "" : " ") + uri;
        }
        return text;
    }
    void note(std::string what, const Reply& reply) {
        asked.push_back(std::move(what));
        reply({});
    }
};

// Everything around servers: commands without any plugin installed but those named.
struct Bench {
    boost::asio::io_context io;
    FakeService service;
    Capabilities capabilities;
    Parameters parameters;
    MigrationCommands commands{service, capabilities, parameters, [](const std::string& scheme) { return scheme == "chaos"; }};
    EventSink sink{capabilities};
    std::vector<std::string> log;
    std::string directory;
    std::vector<std::unique_ptr<QmpServer>> servers;

    Bench();
    ~Bench();
    Bench(const Bench&) = delete;
    Bench& operator=(const Bench&) = delete;

    // A server at directory/name, with the given end of a socket pair as its backend.
    QmpServer& serve(const std::string& name, Fd backend, bool pretty = false);
    Peer connect(const std::string& name);
    // Connects, reads the greeting, negotiates.
    Peer command_mode(const std::string& name, bool oob = false);
};

// The greeting and the negotiation with our backend, as QEMU does them.
inline const std::string greeting_text =
    R"({"QMP": {"version": {"qemu": {"micro": 0, "minor": 1, "major": 11}, "package": ""}, "capabilities": ["oob"]}})";
void greet(Peer& qemu);

json command(const std::string& name, const json& id = nullptr, const json& arguments = nullptr);

} // namespace pageferry::monitor::test
