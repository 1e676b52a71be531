#include "tcp_fallback/connection.h"
#include "tcp_fallback/address.h"

#include "tcp_fallback/dialer.h"
#include "tcp_fallback/sockets.h"
#include "transport/plugin/events.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace pageferry::tcp {

namespace {

constexpr std::int64_t closing_ms = 1000; // how long close() lets a slow peer take the last control messages

Result<void> set_blocking(int socket) {
    const int flags = ::fcntl(socket, F_GETFL);
    if (flags < 0 || ::fcntl(socket, F_SETFL, flags & ~O_NONBLOCK) != 0) {
        return std::unexpected{errno_error(errno, "fcntl", "O_NONBLOCK")};
    }
    return {};
}

} // namespace

Connection::Connection(pf_options options, Fd event) : options_(options), ending_(std::move(event)) {}

Result<std::unique_ptr<Connection>> Connection::open(const std::string& uri, const pf_options& options) {
    auto parsed = parse_own_uri(uri);
    if (!parsed) {
        return std::unexpected{std::move(parsed.error())};
    }
    auto event = make_event();
    if (!event) {
        return std::unexpected{std::move(event.error())};
    }
    std::unique_ptr<Connection> connection{new Connection{options, std::move(*event)}};
    connection->uri_ = std::move(*parsed);
    return connection;
}

Outcome<std::unique_ptr<Connection>> Connection::accepted(LaneSet lanes, const pf_options& options) {
    auto event = make_event();
    if (!event) {
        return failed(std::move(event.error()));
    }
    std::unique_ptr<Connection> connection{new Connection{options, std::move(*event)}};
    auto started = connection->start(std::move(lanes));
    if (!started) {
        return std::unexpected{std::move(started.error())};
    }
    return connection;
}

Outcome<void> Connection::connect(const Deadline& deadline, pf_progress progress, void* context) {
    {
        const std::scoped_lock lock{mutex_};
        if (ending_.over()) {
            return std::unexpected{ending_.why()};
        }
        if (state_ != State::idle || !uri_) {
            return failed(make_error(ErrorCode::state, "connect", uri_ ? uri_->to_string() : name_, "it was connected already"));
        }
        state_ = State::connecting;
    }
    const auto tell = [&](pf_phase phase, const std::string& detail) {
        if (progress != nullptr) {
            progress(context, phase, detail.c_str());
        }
    };
    auto lanes = dial(*uri_, options_, deadline, ending_.event(), tell);
    if (!lanes) {
        ending_.record(lanes.error());
        return std::unexpected{std::move(lanes.error())};
    }
    if (auto started = start(std::move(*lanes)); !started) {
        started.error().phase = PF_PHASE_HANDSHAKE;
        ending_.record(started.error());
        return started;
    }
    tell(PF_PHASE_ESTABLISHED, name_);
    return {};
}

void Connection::add_lane(Fd socket, std::string title, bool urgent) {
    const auto number = static_cast<std::uint32_t>(lanes_.size());
    lanes_.push_back(Lane{.socket = socket.get(),
                          .number = number,
                          .index = number == 0 ? 0 : number - std::size_t{1},
                          .urgent = urgent,
                          .title = std::move(title),
                          .peer = {},
                          .dead_peer_ms = options_.dead_peer_ms,
                          .wire_bytes = &wire_bytes_,
                          .fail = [this](Fault fault) { end(std::move(fault)); }});
    sockets_.push_back(std::move(socket));
}

Outcome<void> Connection::start(LaneSet lanes) {
    const std::size_t bulk = lanes.bulk.size();
    add_lane(std::move(lanes.control), "control lane", false);
    for (std::size_t i = 0; i < bulk; ++i) {
        add_lane(std::move(lanes.bulk[i]), "bulk lane " + std::to_string(i), false);
    }
    add_lane(std::move(lanes.urgent), "urgent lane", true);
    const std::string peer = peer_name(sockets_.front().get());
    for (Lane& lane : lanes_) {
        auto ready = set_blocking(lane.socket);
        if (ready) {
            ready = set_options(lane.socket, options_.dead_peer_ms);
        }
        if (!ready) {
            return failed(std::move(ready.error()), lane.number);
        }
        lane.peer = peer;
    }
    const std::string local = local_name(sockets_.front().get());
    const bool named = !local.starts_with("unix");
    name_ = named ? "tcp " + local + " -> " + peer : (local == "unix" ? peer : local);
    name_ += ", " + std::to_string(bulk) + (bulk == 1 ? " lane" : " lanes");

    work_ = std::make_unique<Work>(bulk, options_.queue_depth);
    control_ = std::make_unique<ControlLane>(lanes_.front(), ending_);
    const auto run = [&](const std::string& name, auto body) -> Outcome<void> {
        auto thread = start_thread(name, std::move(body));
        if (!thread) {
            return failed(std::move(thread.error()));
        }
        threads_.push_back(std::move(*thread));
        return {};
    };
    auto started = run("tcp-tx-c", [this] { control_->flusher(); });
    for (std::size_t i = 1; started && i < lanes_.size(); ++i) {
        const Lane& lane = lanes_[i];
        const std::string suffix = lane.urgent ? "u" : std::to_string(lane.index);
        LaneSender& sender = senders_.emplace_back(lane, *work_);
        LaneReceiver& receiver = receivers_.emplace_back(lane, *work_, gate_, sender);
        started = run("tcp-tx-" + suffix, [&sender] { sender.run(); });
        if (started) {
            started = run("tcp-rx-" + suffix, [&receiver] { receiver.run(); });
        }
    }
    const std::scoped_lock lock{mutex_};
    state_ = State::running;
    if (!started) {
        ending_.record(std::move(started.error()));
    }
    if (ending_.over()) { // also by a cancel() that came before there was anything to take apart
        take_apart(SHUT_RDWR);
        return std::unexpected{ending_.why()};
    }
    return {};
}

void Connection::take_apart(int how_control) {
    for (std::size_t i = 0; i < sockets_.size(); ++i) {
        ::shutdown(sockets_[i].get(), i == 0 ? how_control : SHUT_RDWR);
    }
    work_->end();
    gate_.end();
    control_->end();
}

void Connection::end(Fault fault) {
    // The peer's last control messages may still be read when it has closed.
    const int how_control = fault.error.code == ErrorCode::closed ? SHUT_WR : SHUT_RDWR;
    if (ending_.record(std::move(fault))) {
        take_apart(how_control);
    }
}

void Connection::cancel() {
    ending_.cancel();
    const std::scoped_lock lock{mutex_};
    if (state_ == State::running) { // else connect() sees the event
        take_apart(SHUT_RDWR);
    }
}

Connection::~Connection() {
    if (state_ == State::running && !ending_.over() && control_->flush(Deadline::in(closing_ms))) {
        // In this order the peer can read our last messages before it learns of the end from another lane.
        ::shutdown(sockets_.front().get(), SHUT_WR);
        control_->drain();
    }
    cancel();
    for (std::thread& thread : threads_) {
        thread.join();
    }
}

std::string Connection::describe() const {
    return state_.load() == State::running ? name_ : uri_->to_string() + ", not connected";
}

Outcome<void> Connection::usable(const char* operation) const {
    if (ending_.over()) {
        return std::unexpected{ending_.why()};
    }
    if (state_.load() != State::running) {
        return failed(make_error(ErrorCode::state, operation, "connection", "it is not connected"));
    }
    return {};
}

Outcome<void> Connection::add_memory(std::span<const pf_memory_block> blocks) {
    if (auto may = usable("add memory"); !may) {
        return may;
    }
    auto table = MemoryTable::make(blocks);
    if (!table) {
        return failed(std::move(table.error()));
    }
    if (!gate_.publish(std::move(*table))) {
        return failed(make_error(ErrorCode::state, "add memory", "connection", "its memory was added already"));
    }
    return {};
}

Outcome<void> Connection::prepare(std::span<const pf_extent> extents) {
    if (auto may = usable("prepare"); !may) {
        return may;
    }
    const MemoryTable* table = gate_.table();
    if (table == nullptr) {
        return failed(make_error(ErrorCode::state, "prepare", "connection", "no memory was added"));
    }
    auto right = table->check("prepare", extents, PF_MEMORY_PUSH_SOURCE | PF_MEMORY_PULL_TARGET);
    return right ? Outcome<void>{} : failed(std::move(right.error()));
}

Outcome<void> Connection::memory_replaced() {
    return usable("register memory again");
}

Outcome<void> Connection::revoke_memory(const Deadline& deadline) {
    // Also when the connection is over, though the answer is then its error.
    const bool revoked = state_.load() == State::running && gate_.revoke(deadline);
    if (auto may = usable("revoke memory"); !may) {
        return may;
    }
    if (!revoked) {
        return failed(make_error(ErrorCode::timed_out, "revoke memory", "connection", "a page is still being received"));
    }
    return {};
}

Outcome<void> Connection::send(std::span<const std::byte> message, const Deadline& deadline) {
    if (auto may = usable("send"); !may) {
        return may;
    }
    if (message.empty() || message.size() > PF_CONTROL_MAX) {
        return failed(make_error(ErrorCode::invalid_argument, "send", "control lane",
                                 "a message has 1 to " + std::to_string(PF_CONTROL_MAX) + " bytes, this one " +
                                     std::to_string(message.size())),
                      0);
    }
    auto sent = control_->send(message, deadline);
    if (sent) {
        control_bytes_.fetch_add(message.size(), std::memory_order_relaxed);
    }
    return sent;
}

Outcome<std::size_t> Connection::receive(std::span<std::byte> buffer, const Deadline& deadline) {
    if (buffer.size() < PF_CONTROL_MAX) {
        return failed(
            make_error(ErrorCode::invalid_argument, "receive", "control lane", "the buffer is smaller than a message may be"), 0);
    }
    if (state_.load() != State::running) {
        return std::unexpected{usable("receive").error()};
    }
    return control_->receive(buffer, deadline); // which knows when messages still come after the end
}

Outcome<std::size_t> Connection::submit(OpKind kind, std::span<const pf_extent> extents) {
    const char* operation = kind == OpKind::push ? "push" : "pull";
    if (auto may = usable(operation); !may) {
        return std::unexpected{std::move(may.error())};
    }
    const MemoryTable* table = gate_.table();
    if (table == nullptr) {
        return failed(make_error(ErrorCode::state, operation, "connection", "no memory was added"));
    }
    if (auto right = table->check(operation, extents, kind == OpKind::push ? PF_MEMORY_PUSH_SOURCE : PF_MEMORY_PULL_TARGET);
        !right) {
        return failed(std::move(right.error()));
    }
    const std::size_t taken = work_->submit(kind, *table, extents);
    if (kind == OpKind::pull_urgent && taken > 0) {
        senders_.back().send_now();
        work_->expect();
    }
    return taken;
}

Outcome<std::size_t> Connection::poll(std::span<pf_completion> completions, const Deadline& deadline) {
    if (auto may = usable("poll"); !may) {
        return std::unexpected{std::move(may.error())};
    }
    std::size_t count = 0;
    if (work_->poll(completions, count, deadline) == Waited::ended) {
        return std::unexpected{ending_.why()};
    }
    return count;
}

Outcome<void> Connection::fence(const Deadline& deadline) {
    if (auto may = usable("fence"); !may) {
        return may;
    }
    switch (work_->fence(deadline)) {
    case Waited::done: return {};
    case Waited::timed_out:
        return failed(make_error(ErrorCode::timed_out, "fence", "connection", "the peer has not confirmed all pushes in time"));
    case Waited::ended: break;
    }
    return std::unexpected{ending_.why()};
}

void Connection::counters(pf_counters& counters) const {
    if (state_.load() != State::running) {
        return;
    }
    counters.lanes = static_cast<std::uint32_t>(lanes_.size() - 2);
    counters.bytes_pushed = work_->bytes_pushed();
    counters.bytes_pulled = work_->bytes_pulled();
    counters.control_bytes = control_bytes_.load(std::memory_order_relaxed);
    counters.wire_bytes = wire_bytes_.load(std::memory_order_relaxed);
}

} // namespace pageferry::tcp
