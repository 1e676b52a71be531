#include "rdma/connection.h"

#include "rdma/dialer.h"
#include "rdma/memlock.h"
#include "transport/plugin/events.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace pageferry::rdma {

namespace {

constexpr std::int64_t closing_ms = 1000; // how long close() lets a slow peer take the last control messages
constexpr std::int64_t flushing_ms = 100; // and the device give back what it held

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

Outcome<std::unique_ptr<Connection>> Connection::accepted(Lanes lanes, const pf_options& options) {
    auto event = make_event();
    if (!event) {
        return failed(std::move(event.error()));
    }
    std::unique_ptr<Connection> connection{new Connection{options, std::move(*event)}};
    if (auto started = connection->start(std::move(lanes)); !started) {
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
    int told = 0;
    const auto tell = [&](pf_phase phase, const std::string& detail) {
        // The addresses of a name are tried in turn: phases do not go back for that.
        if (progress != nullptr && static_cast<int>(phase) >= told) {
            told = static_cast<int>(phase);
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

Outcome<void> Connection::start(Lanes lanes) {
    lanes_ = std::move(lanes);
    const Lane& control = *lanes_->find(LaneKind::control, 0);
    name_ = "rdma " + address_text(rdma_get_local_addr(control.id.get())) + " -> " + control.name.peer + " by " +
            control.name.device + ", " + std::to_string(lanes_->bulk_lanes()) + (lanes_->bulk_lanes() == 1 ? " lane" : " lanes");

    std::array<Fd, 3> kicks;
    for (Fd& kick : kicks) {
        auto made = make_kick();
        if (!made) {
            return failed(std::move(made.error()));
        }
        kick = std::move(*made);
    }
    const ControlLane::Fail fail = [this](Fault fault, bool consequence) { service_->fail(std::move(fault), consequence); };
    service_ = std::make_unique<Service>(*lanes_, ending_, std::chrono::milliseconds{options_.dead_peer_ms}, std::move(kicks[0]),
                                         [this](Fault fault) { ending_.record(std::move(fault)); });
    control_ = std::make_unique<ControlLane>(*lanes_, ending_, std::move(kicks[1]), fail);
    data_ = std::make_unique<DataLanes>(
        *lanes_, ending_, std::move(kicks[2]), options_.queue_depth,
        [this](std::span<const Region> regions, Urgency urgency) { service_->want(regions, urgency); }, fail);
    if (auto started = service_->start(*data_); !started) {
        return failed(std::move(started.error()));
    }
    const std::scoped_lock lock{mutex_};
    state_ = State::running;
    return ending_.over() ? Outcome<void>{std::unexpected{ending_.why()}} : Outcome<void>{};
}

void Connection::cancel() {
    ending_.cancel(); // whoever waits does so on its event, connect() too
}

Connection::~Connection() {
    if (state_ == State::running && !ending_.over()) {
        (void)control_->flush(Deadline::in(closing_ms));
    }
    cancel();
    if (service_) {
        service_->stop();
    }
    if (lanes_) {
        // From here on the device moves nothing; then it lets go of the guest's memory, which nothing of this connection can
        // reach any more.
        lanes_->stop();
        if (data_) {
            (void)data_->flush(Deadline::in(flushing_ms));
        }
        lanes_->reset();
    }
    data_.reset();    // deregisters what this side pushed from and pulled into
    service_.reset(); // and what the peer could reach
    control_.reset();
    lanes_.reset(); // the rest may take its time, see reaper.h
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

Outcome<const MemoryTable*> Connection::memory(const char* operation) const {
    if (auto may = usable(operation); !may) {
        return std::unexpected{std::move(may.error())};
    }
    const MemoryTable* const table = shown_.load(std::memory_order_acquire);
    if (table == nullptr) {
        return failed(make_error(ErrorCode::state, operation, "connection", "no memory was added"));
    }
    return table;
}

Outcome<void> Connection::add_memory(std::span<const pf_memory_block> blocks) {
    if (auto may = usable("add memory"); !may) {
        return may;
    }
    auto table = MemoryTable::make(blocks);
    if (!table) {
        return failed(std::move(table.error()));
    }
    std::uint64_t bytes = 0;
    for (const Block& block : table->blocks()) {
        bytes += block.length;
    }
    if (auto enough = check_memlock(bytes); !enough) {
        return failed(std::move(enough.error()));
    }
    const std::scoped_lock lock{mutex_};
    if (table_) {
        return failed(make_error(ErrorCode::state, "add memory", "connection", "its memory was added already"));
    }
    table_ = std::make_unique<const MemoryTable>(std::move(*table));
    data_->set_memory(*table_);
    shown_.store(table_.get(), std::memory_order_release);
    service_->set_memory(*table_);
    return {};
}

Outcome<void> Connection::prepare(std::span<const pf_extent> extents) {
    auto table = memory("prepare");
    if (!table) {
        return std::unexpected{std::move(table.error())};
    }
    if (auto right = (*table)->check("prepare", extents, PF_MEMORY_PUSH_SOURCE | PF_MEMORY_PULL_TARGET); !right) {
        return failed(std::move(right.error()));
    }
    data_->prepare(extents);
    return {};
}

Outcome<void> Connection::memory_replaced() {
    auto table = memory("register memory again");
    if (!table) {
        return std::unexpected{std::move(table.error())};
    }
    return service_->memory_replaced();
}

Outcome<void> Connection::revoke_memory(const Deadline& /*deadline*/) {
    // Also when the connection is over, though the answer is then its error. Deregistering waits for nothing that a peer does.
    if (state_.load() == State::running) {
        service_->revoke();
    }
    return usable("revoke memory");
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
    const char* const operation = kind == OpKind::push ? "push" : "pull";
    auto table = memory(operation);
    if (!table) {
        return std::unexpected{std::move(table.error())};
    }
    if (auto right = (*table)->check(operation, extents, kind == OpKind::push ? PF_MEMORY_PUSH_SOURCE : PF_MEMORY_PULL_TARGET);
        !right) {
        return failed(std::move(right.error()));
    }
    return data_->submit(kind, extents);
}

Outcome<std::size_t> Connection::poll(std::span<pf_completion> completions, const Deadline& deadline) {
    if (auto may = usable("poll"); !may) {
        return std::unexpected{std::move(may.error())};
    }
    return data_->poll(completions, deadline);
}

Outcome<void> Connection::fence(const Deadline& deadline) {
    if (auto may = usable("fence"); !may) {
        return may;
    }
    return data_->fence(deadline);
}

void Connection::counters(pf_counters& counters) const {
    counters = {};
    counters.lanes = options_.lanes;
    if (state_.load() != State::running) {
        return;
    }
    counters.lanes = lanes_->bulk_lanes();
    counters.bytes_pushed = data_->bytes_pushed();
    counters.bytes_pulled = data_->bytes_pulled();
    counters.control_bytes = control_bytes_.load(std::memory_order_relaxed);
    counters.wire_bytes = counters.bytes_pushed + control_->wire_bytes();
}

} // namespace pageferry::rdma
