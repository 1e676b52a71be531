#include "monitor/qmp_server.h"

#include "monitor/capabilities.h"
#include "monitor/event_loop.h"
#include "monitor/migration_commands.h"
#include "monitor/qmp_message.h"
#include "monitor/qmp_session.h"

#include <nlohmann/json.hpp>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <optional>
#include <utility>

namespace pageferry::monitor {

namespace {

using nlohmann::json;

constexpr std::chrono::milliseconds accept_again{100};        // after a failure that passes: no descriptors, no memory
constexpr std::size_t enough_for_qemu = std::size_t{1} << 20; // bytes not yet read by QEMU, beyond which clients wait

bool is_migration_event(std::string_view name) {
    return name == "MIGRATION" || name == "MIGRATION_PASS";
}

} // namespace

struct QmpServer::Implementation : std::enable_shared_from_this<Implementation> {
    struct Listener {
        Fd socket;
        Watch watch; // of socket, which outlives it
        bool armed = false;
    };

    struct InFlight {
        std::unique_ptr<json> id; // null: none
        bool out_of_band = false;
        bool begins_native = false;
        std::weak_ptr<QmpSession> owner; // gone: the answer is for nobody
    };
    struct Waiting {
        Forward forward;
        std::weak_ptr<QmpSession> owner;
    };

    Implementation(boost::asio::io_context& loop, Endpoint where, std::unique_ptr<QmpBackend> qemu, MigrationCommands& migration,
                   Log logger)
        : io(loop), endpoint(std::move(where)), backend(std::move(qemu)), commands(migration), log(std::move(logger)) {}

    void start() {
        const std::weak_ptr<Implementation> weak = weak_from_this();
        const auto with = [weak](auto call) {
            if (const auto self = weak.lock()) {
                call(*self);
            }
        };
        backend->start(
            {.ready = [with] { with([](Implementation& self) { self.begin(); }); },
             .event = [with](const std::string& name, const json&,
                             std::string_view raw) { with([&](Implementation& self) { self.qemu_event(name, raw); }); },
             .reply =
                 [with](QmpBackend::Answer answer) { with([&](Implementation& self) { self.qemu_reply(std::move(answer)); }); },
             // Whatever else QEMU's end has made ready comes first: it may be an event for this client.
             .closed = [this, with] { post(io, [with] { with([](Implementation& self) { self.qemu_gone(); }); }); }});
    }

    void begin() {
        if (endpoint.kind == Endpoint::Kind::listening) {
            wait_for_client();
            return;
        }
        auto channel = Channel::open(io, std::move(endpoint.in), std::move(endpoint.out));
        if (!channel) {
            say("cannot serve its client: " + channel.error().to_string());
            return;
        }
        serve(std::move(*channel));
    }

    void wait_for_client() {
        if (gone) {
            return;
        }
        for (std::size_t i = 0; i < listeners.size(); ++i) {
            if (std::exchange(listeners[i].armed, true)) {
                continue;
            }
            listeners[i].watch.when_readable([weak = weak_from_this(), i] {
                if (const auto self = weak.lock(); self && i < self->listeners.size()) {
                    self->listeners[i].armed = false;
                    self->accept_client(self->listeners[i]);
                }
            });
        }
    }

    void accept_client(Listener& listener) {
        if (session) {
            return; // it came by another address while this was on its way; the next waits in the backlog
        }
        Fd socket{::accept4(listener.socket.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
        if (!socket) {
            const int error = errno;
            if (error == EAGAIN || error == EINTR || error == ECONNABORTED) {
                wait_for_client();
                return;
            }
            if (error != std::exchange(last_accept_error, error)) {
                say("accept: " + errno_error(error, "accept4").to_string());
            }
            listener.watch.later(accept_again, [weak = weak_from_this()] {
                if (const auto self = weak.lock()) {
                    self->wait_for_client();
                }
            });
            return;
        }
        last_accept_error = 0;
        const int on = 1;
        (void)::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); // not for AF_UNIX, and not needed there
        auto channel = Channel::open(io, std::move(socket));
        if (!channel) {
            say("cannot serve a client: " + channel.error().to_string());
            wait_for_client();
            return;
        }
        serve(std::move(*channel));
    }

    Result<void> listen_on(Fd socket) {
        auto watch = Watch::open(io, socket.get());
        if (!watch) {
            return std::unexpected{std::move(watch).error()};
        }
        const int flags = ::fcntl(socket.get(), F_GETFL);
        if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
            return std::unexpected{errno_error(errno, "fcntl O_NONBLOCK", endpoint.name)};
        }
        listeners.push_back(Listener{.socket = std::move(socket), .watch = std::move(*watch)});
        return {};
    }

    void serve(std::unique_ptr<Channel> channel) {
        const std::weak_ptr<Implementation> weak = weak_from_this();
        session = std::make_shared<QmpSession>(
            std::move(channel),
            QmpSession::Surroundings{.io = io,
                                     .commands = commands,
                                     .pretty = endpoint.pretty,
                                     .oob_offered = backend->oob(),
                                     .forward =
                                         [weak](Forward message) {
                                             if (const auto self = weak.lock()) {
                                                 const bool for_nobody = message.for_nobody;
                                                 self->to_qemu({.forward = std::move(message),
                                                                .owner = for_nobody ? nullptr : self->session});
                                             }
                                         },
                                     .has_room =
                                         [weak] {
                                             const auto self = weak.lock();
                                             return self && self->backend && self->backend->queued_bytes() < enough_for_qemu;
                                         },
                                     .over =
                                         [weak](const std::string& why) {
                                             if (const auto self = weak.lock()) {
                                                 self->session_over(why);
                                             }
                                         }});
        session->start(backend->greeting());
    }

    void session_over(const std::string& why) {
        if (!why.empty()) {
            say("client disconnected: " + why);
        }
        session.reset();
        if (waiting && waiting->owner.expired()) {
            waiting.reset();
        }
        wait_for_client();
    }

    [[nodiscard]] bool in_band_busy() const {
        return std::ranges::any_of(in_flight, [](const InFlight& one) { return !one.out_of_band; });
    }

    void to_qemu(Waiting message) {
        if (!backend) {
            return; // this server is being destroyed
        }
        // In band, one at a time: a client that left in the middle of a command keeps the next one's waiting, as in QEMU.
        if (!message.forward.out_of_band && in_band_busy()) {
            waiting = std::move(message);
            return;
        }
        in_flight.push_back({std::move(message.forward.id), message.forward.out_of_band, message.forward.begins_native,
                             std::move(message.owner)});
        backend->send_raw(std::move(message.forward.text), std::move(message.forward.fds));
    }

    // Whose answer it is. By id; where an in-band and an out-of-band command have the same one (or none), the latter is answered
    // first as a rule, for it waits for nothing. An answer that has no such id (QEMU could not read it) is the oldest command's.
    std::deque<InFlight>::iterator find(const json* id) {
        const auto has_id = [&](const InFlight& one) {
            return one.id && id != nullptr ? *id == *one.id : !one.id && id == nullptr;
        };
        const auto urgent = std::ranges::find_if(in_flight, [&](const InFlight& one) { return one.out_of_band && has_id(one); });
        if (urgent != in_flight.end()) {
            return urgent;
        }
        const auto same = std::ranges::find_if(in_flight, has_id);
        return same != in_flight.end() ? same : in_flight.begin();
    }

    void qemu_reply(QmpBackend::Answer answer) {
        const auto found = find(answer.id);
        if (found == in_flight.end()) {
            say("QEMU answered what nobody asked");
            return;
        }
        const InFlight mine = std::move(*found);
        in_flight.erase(found);
        if (mine.begins_native && answer.is_error) {
            commands.native_refused(); // before the client can send its next command
        }
        if (const auto owner = mine.owner.lock()) {
            owner->show_reply(std::move(answer.raw), mine.out_of_band);
        }
        if (waiting && !in_band_busy()) {
            Waiting next = std::move(*waiting);
            waiting.reset();
            to_qemu(std::move(next));
        }
        if (session) {
            session->told_room();
        }
    }

    void qemu_event(const std::string& name, std::string_view raw) {
        if (session && (!is_migration_event(name) || commands.is_native())) {
            session->show_event(std::string{raw} + "\r\n");
        }
    }

    void qemu_gone() {
        gone = true;
        listeners.clear();
        if (session) {
            session->finish();
        }
        if (const auto call = std::exchange(closed, nullptr)) {
            post(io, call); // it may destroy this server
        }
    }

    void say(const std::string& text) const {
        if (log) {
            log("monitor " + endpoint.name + ": " + text);
        }
    }

    boost::asio::io_context& io;
    Endpoint endpoint;
    std::unique_ptr<QmpBackend> backend;
    MigrationCommands& commands;
    Log log;
    std::vector<Listener> listeners; // all for the same monitor; empty once QEMU is gone
    std::shared_ptr<QmpSession> session;
    std::deque<InFlight> in_flight;
    std::optional<Waiting> waiting; // the present session's in-band command, behind a former one's
    std::function<void()> closed;
    int last_accept_error = 0;
    bool gone = false;
};

void EventSink::broadcast(std::string_view name, const nlohmann::json& data) {
    if (is_migration_event(name) && !capabilities_.on("events")) {
        return;
    }
    const auto servers = servers_;
    for (QmpServer* const server : servers) {
        server->implementation_->backend->drain();
    }
    for (QmpServer* const server : servers) {
        if (const auto session = server->implementation_->session) {
            session->show_event(event_line(name, data, server->implementation_->endpoint.pretty));
        }
    }
}

Result<std::unique_ptr<QmpServer>> QmpServer::open(boost::asio::io_context& io, Endpoint endpoint,
                                                   std::unique_ptr<QmpBackend> backend, MigrationCommands& commands,
                                                   EventSink& sink, Log log) {
    auto made = std::make_shared<Implementation>(io, std::move(endpoint), std::move(backend), commands, std::move(log));
    if (made->endpoint.kind == Endpoint::Kind::listening) {
        PAGEFERRY_TRY(made->listen_on(std::move(made->endpoint.in)));
        for (auto& socket : made->endpoint.more) {
            PAGEFERRY_TRY(made->listen_on(std::move(socket)));
        }
    }
    std::unique_ptr<QmpServer> server{new QmpServer{made}};
    server->sink_ = &sink;
    sink.servers_.push_back(server.get());
    made->start();
    return server;
}

QmpServer::QmpServer(std::shared_ptr<Implementation> implementation) : implementation_(std::move(implementation)) {}

QmpServer::~QmpServer() {
    std::erase(sink_->servers_, this);
    implementation_->gone = true;
    implementation_->closed = nullptr;
    implementation_->listeners.clear();
    implementation_->session.reset();
    implementation_->backend.reset();
}

void QmpServer::on_closed(std::function<void()> closed) {
    implementation_->closed = std::move(closed);
}

} // namespace pageferry::monitor
