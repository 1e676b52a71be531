// One of the user's monitors: where its clients connect, the backend in QEMU behind it, and the session of the client that is
// served now. One client at a time, as QEMU does; the next waits in the listen backlog. And EventSink: what reports Pageferry's
// own events on all of them.
//
// Threads: the io_context's one thread. Nothing a client sends ends more than its own connection.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "monitor/qmp_backend.h"

#include <nlohmann/json_fwd.hpp>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::monitor {

class Capabilities;
class MigrationCommands;
class QmpServer;

struct Endpoint {
    enum class Kind {
        listening, // a listening socket, AF_UNIX or TCP: client after client
        connected, // one client, already there
        pair,      // one client on two descriptors: standard input and output
    };
    Kind kind = Kind::listening;
    Fd in;                // the socket, or what is read
    Fd out;               // pair only: what is written
    std::vector<Fd> more; // listening only: further sockets for the same clients, where a host name has several addresses
    std::string name;     // for logs: "unix:/run/vm.qmp"
    bool pretty = false;
};

class EventSink {
public:
    explicit EventSink(const Capabilities& capabilities) : capabilities_(capabilities) {}

    // To every session in command mode, after everything QEMU has sent on the users' monitors up to now: what a reply or an event
    // on another backend implied was sent before it, and so stays before this. MIGRATION and MIGRATION_PASS go out only while the
    // capability "events" is on.
    void broadcast(std::string_view name, const nlohmann::json& data);

private:
    friend class QmpServer;
    const Capabilities& capabilities_;
    std::vector<QmpServer*> servers_;
};

class QmpServer {
public:
    using Log = std::function<void(const std::string& line)>;

    // Takes a backend that was not started yet; clients are greeted once it is ready. commands and sink outlive the server.
    static Result<std::unique_ptr<QmpServer>> open(boost::asio::io_context& io, Endpoint endpoint,
                                                   std::unique_ptr<QmpBackend> backend, MigrationCommands& commands,
                                                   EventSink& sink, Log log);
    QmpServer(const QmpServer&) = delete;
    QmpServer& operator=(const QmpServer&) = delete;
    ~QmpServer();

    // Called once when QEMU closed this monitor: QEMU is gone. The client was shown everything QEMU had sent, and its connection
    // is closed.
    void on_closed(std::function<void()> closed);

private:
    friend class EventSink;
    struct Implementation;
    explicit QmpServer(std::shared_ptr<Implementation> implementation);
    std::shared_ptr<Implementation> implementation_;
    EventSink* sink_ = nullptr;
};

} // namespace pageferry::monitor
