#include "engine/destination.h"

#include "engine/peer.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace pageferry::engine {

namespace session = transport::session;
using std::chrono::milliseconds;

namespace {
constexpr milliseconds accept_wait{500};
constexpr milliseconds message_wait{500};
constexpr milliseconds load_wait{50};
constexpr milliseconds revoke_timeout{10'000};
constexpr milliseconds farewell{200};

} // namespace

Destination::Destination(DestinationConfig config, DestinationGuest& guest, statemachine::Machine& machine)
    : config_(std::move(config)), guest_(guest), machine_(machine) {
    std::uint64_t total = 0;
    for (const auto& block : config_.blocks) {
        total += block.info().length;
    }
    config_.page->progress.ram_total = total;
    if (config_.unsettled) {
        session_ = config_.unsettled->session;
        epoch_ = config_.unsettled->epoch;
        ran_ = config_.unsettled->ran;
        loaded_ = true;
    }
}

Destination::~Destination() {
    inbox_.reset();
    relay_.reset();
}

Result<std::vector<std::string>> Destination::listen() {
    const std::lock_guard lock{connection_mutex_};
    listeners_.emplace();
    for (std::size_t number = 0; number < config_.candidates.size(); ++number) {
        const Candidate& candidate = config_.candidates[number];
        if (!candidate.transport) {
            use_.attempts.push_back(Attempt{.uri = candidate.uri, .phase = "load", .error = candidate.transport.error()});
            continue;
        }
        auto listener = candidate.transport->listen(candidate.uri, config_.options);
        if (!listener) {
            use_.attempts.push_back(Attempt{.uri = candidate.uri, .phase = "listen", .error = std::move(listener.error())});
            continue;
        }
        uris_.push_back(listener->uri());
        candidates_.push_back(number);
        listeners_->add(std::move(*listener));
    }
    if (uris_.empty()) {
        return std::unexpected(none_left(use_.attempts));
    }
    return uris_;
}

void Destination::cancel() {
    cancelled_ = true;
    const std::lock_guard lock{connection_mutex_};
    if (channel_) {
        // `refused` is the one certain word: this side was never asked to run the guest, and is not going to be.
        const ErrorCode code = run_asked_ ? ErrorCode::cancelled : ErrorCode::refused;
        std::ignore = channel_->send_within(session::Failure{.code = code, .text = "the destination gave up"}, milliseconds{50});
    }
    if (connection_) {
        connection_->cancel();
    }
    if (listeners_) {
        listeners_->cancel();
    }
}

Result<void> Destination::run() {
    if (!config_.unsettled) {
        if (auto done = serve(); !done) {
            const Error error = cause(done.error());
            // Once the source may have sent its permit, only a certain word says that the guest does not run here: the source's
            // own, or the hypervisor's refusal to run it.
            const bool uncertain = loaded_ && !run_refused_ && !(channel_ && channel_->peer_failed());
            if (!uncertain && !ran_) {
                fail(error);
                return std::unexpected(error);
            }
            lost(error);
        }
    }
    while (!settled_ && !cancelled_) {
        if (auto done = settle(); !done) {
            lost(cause(done.error()));
        }
    }
    if (!settled_ && !ran_) {
        return std::unexpected(make_error(ErrorCode::cancelled, "settle", uris_.at(listener_), "the permit to run has not come"));
    }
    return {};
}

Error Destination::cause(const Error& seen) {
    return inbox_ ? inbox_->cause_of(seen) : seen;
}

void Destination::fail(const Error& error) {
    if (channel_) {
        const ErrorCode code = run_refused_ ? ErrorCode::refused : error.code;
        std::ignore = channel_->send_within(
            session::Failure{.code = code, .text = "the destination failed: " + error.to_string()}, farewell);
    }
    // Refused only where the owner was quicker.
    std::ignore = machine_.transition(statemachine::Status::failed, statemachine::Cause::error, error.to_string());
}

// The connection is gone, and who runs the guest is not settled, or the source does not know it yet.
void Destination::lost(const Error& error) {
    if (!ran_ && machine_.status() != statemachine::Status::postcopy_paused) {
        std::ignore =
            machine_.transition(statemachine::Status::postcopy_paused, statemachine::Cause::connection_lost, error.to_string());
    }
    drop_connection();
}

void Destination::drop_connection() {
    inbox_.reset();
    relay_.reset();
    memory_shared_ = false;
    const std::lock_guard lock{connection_mutex_};
    channel_.reset();
    connection_.reset();
}

// The next peer whose transport handshake is done; `stranger`: none yet.
Result<Destination::Peer> Destination::accept() {
    std::vector<Error> strangers;
    auto accepted = listeners_->accept(accept_wait, strangers);
    for (const Error& stranger : strangers) {
        config_.turned_away(stranger);
    }
    if (!accepted) {
        return std::unexpected(std::move(accepted.error()));
    }
    if (!*accepted) {
        return Peer::stranger;
    }
    {
        const std::lock_guard lock{connection_mutex_};
        listener_ = (*accepted)->listener;
        connection_.emplace(std::move((*accepted)->connection));
        channel_.emplace(*connection_, config_.options.dead_peer);
        if (cancelled_) {
            connection_->cancel();
        }
    }
    inbox_.emplace(*connection_, *channel_);
    return Peer::source;
}

Result<void> Destination::serve() {
    for (;;) {
        auto peer = accept();
        if (peer && *peer == Peer::stranger) {
            continue;
        }
        if (peer) {
            peer = greet();
        }
        if (!peer) {
            return std::unexpected(peer.error());
        }
        if (*peer == Peer::source) {
            return receive_guest();
        }
        drop_connection();
    }
}

// One more connection of the same session: the permit, if it had not come, and the word that the guest runs.
Result<void> Destination::settle() {
    for (;;) {
        auto peer = accept();
        if (peer && *peer == Peer::stranger) {
            continue;
        }
        if (peer) {
            peer = greet_again();
        }
        if (!peer) {
            return std::unexpected(peer.error());
        }
        if (*peer == Peer::source) {
            break;
        }
        drop_connection();
    }
    if (!ran_) {
        PAGEFERRY_TRY(machine_.transition(statemachine::Status::postcopy_recover, statemachine::Cause::connected));
        PAGEFERRY_TRY(machine_.transition(statemachine::Status::postcopy_active, statemachine::Cause::connected));
    }
    return wait_for_permit();
}

Result<void> Destination::wait_for_permit() {
    auto message = inbox_->wait(config_.options.dead_peer);
    if (!message || !*message || !std::holds_alternative<session::Permit>(**message)) {
        return !message    ? std::unexpected(std::move(message.error()))
               : !*message ? std::unexpected(no_message("Permit", config_.options.dead_peer))
                           : std::unexpected(unexpected_message(**message, "wait for Permit"));
    }
    return run_guest(std::get<session::Permit>(**message).running);
}

Result<Destination::Peer> Destination::greet_again() {
    const auto again = hello();
    if (!again) {
        return turn_away(again.error());
    }
    if (again->session != session_ || again->epoch <= epoch_) {
        return turn_away(make_error(ErrorCode::refused, "hello", uris_.at(listener_),
                                    "this destination waits for another session, or for a later connection of it"));
    }
    epoch_ = again->epoch;
    config_.accepted(session_, epoch_);
    tell_transport();
    return Peer::source;
}

// Hello, answered.
Result<session::Hello> Destination::hello() {
    auto first = inbox_->wait(config_.options.handshake);
    if (!first || !*first) {
        return std::unexpected(first
                                   ? make_error(ErrorCode::timed_out, "wait for", "Hello", "the peer connected and said nothing")
                                   : cause(first.error()));
    }
    auto* hello = std::get_if<session::Hello>(&**first);
    if (hello == nullptr || hello->role != session::Role::source) {
        return std::unexpected(unexpected_message(**first, "hello"));
    }
    const auto version = session::agree_version(*hello);
    if (!version) {
        return std::unexpected(version.error());
    }
    PAGEFERRY_TRY(channel_->send(session::HelloReply{.version = *version,
                                                     .session = hello->session,
                                                     .epoch = hello->epoch,
                                                     .role = session::Role::destination,
                                                     .features = 0,
                                                     .software = "pageferry " PAGEFERRY_VERSION}));
    return std::move(*hello);
}

Result<Destination::Peer> Destination::turn_away(Error error) {
    if (cancelled_) {
        return std::unexpected(std::move(error));
    }
    std::ignore = channel_->send_within(session::Failure{.code = error.code, .text = error.to_string()}, farewell);
    config_.turned_away(error);
    return Peer::stranger;
}

// Hello, RAM tables and memory. Whoever fails here was a stranger; from `active` on it is the source.
Result<Destination::Peer> Destination::greet() {
    const auto first = hello();
    if (!first) {
        return turn_away(first.error());
    }
    auto second = inbox_->wait(config_.options.handshake);
    if (!second || !*second) {
        return turn_away(second ? make_error(ErrorCode::timed_out, "wait for", "RamTable", "the peer did not send it")
                                : cause(second.error()));
    }
    const auto* table = std::get_if<session::RamTable>(&**second);
    if (table == nullptr) {
        return turn_away(unexpected_message(**second, "RAM table"));
    }
    std::vector<session::RamTableEntry> local;
    local.reserve(config_.blocks.size());
    for (const auto& block : config_.blocks) {
        local.push_back(session::RamTableEntry{.block = static_cast<std::uint32_t>(local.size()),
                                               .name = block.info().name,
                                               .length = block.info().length,
                                               .page_size = block.info().page_size});
    }
    const auto order = session::match_ram_tables(table->blocks, local);
    if (!order) {
        return turn_away(order.error());
    }
    if (const auto shared = share_memory(*order); !shared) {
        // The source has not begun either: it may come by another transport, where there is one.
        if (listeners_->size() > 1 && another_may_do(shared.error(), true)) {
            return turn_away(shared.error());
        }
        return std::unexpected(shared.error());
    }
    session_ = first->session;
    epoch_ = first->epoch;
    config_.accepted(session_, epoch_);
    tell_transport();
    PAGEFERRY_TRY(machine_.transition(statemachine::Status::active, statemachine::Cause::connected));
    PAGEFERRY_TRY(send_extents());
    return Peer::source;
}

Result<void> Destination::share_memory(const std::vector<std::size_t>& order) {
    blocks_.clear();
    std::vector<transport::MemoryBlock> shared;
    for (const std::size_t local : order) {
        auto& block = config_.blocks[local];
        shared.push_back(transport::MemoryBlock{.block = static_cast<std::uint32_t>(blocks_.size()),
                                                .name = block.info().name,
                                                .address = block.alias(),
                                                .length = block.info().length,
                                                .page_size = block.info().page_size,
                                                .access = PF_MEMORY_PUSH_TARGET});
        blocks_.push_back(&block);
    }
    PAGEFERRY_TRY(connection_->add_memory(shared));
    memory_shared_ = true;
    config_.page->progress.lanes = connection_->counters().lanes;
    return {};
}

void Destination::tell_transport() {
    use_.connected = true;
    use_.candidate = candidates_.at(listener_);
    use_.uri = uris_.at(listener_);
    use_.name = config_.candidates.at(use_.candidate).transport->name();
    use_.connection = connection_->describe();
    use_.lanes = connection_->counters().lanes;
    config_.tell(use_);
}

// What our RAM holds already (a ROM's shadow, preallocated pages): the source tells which of it must go.
Result<void> Destination::send_extents() {
    for (std::size_t block = 0; block < blocks_.size(); ++block) {
        const auto extents = memory::data_extents(*blocks_[block]);
        if (!extents) {
            return std::unexpected(extents.error());
        }
        std::size_t sent = 0;
        do {
            session::DataExtents message{.block = static_cast<std::uint32_t>(block), .last = false, .ranges = {}};
            for (; sent < extents->size() && message.ranges.size() < session::max_ranges; ++sent) {
                message.ranges.push_back(session::Range{.offset = (*extents)[sent].offset, .length = (*extents)[sent].length});
            }
            message.last = block + 1 == blocks_.size() && sent == extents->size();
            PAGEFERRY_TRY(channel_->send(message));
        } while (sent < extents->size());
    }
    return {};
}

// Holes are punched only into memory of which nothing is registered yet: a device that has pinned a page goes on writing into it
// when it is no longer the file's. All discards come before DiscardDone, and the source neither pushes nor prepares a push before
// it has that; a transport registers memory for the peer when the peer asks for it.
Result<void> Destination::discard(const session::Discard& message) {
    if (message.block >= blocks_.size()) {
        return std::unexpected(
            make_error(ErrorCode::protocol, "discard", "block " + std::to_string(message.block), "no such block"));
    }
    const auto& block = *blocks_[message.block];
    for (const auto& range : message.ranges) {
        const bool aligned = range.offset % block.info().page_size == 0 && range.length % block.info().page_size == 0;
        if (!aligned || range.offset > block.info().length || range.length > block.info().length - range.offset) {
            return std::unexpected(make_error(ErrorCode::protocol, "discard", "RAM block " + block.info().name,
                                              "offset " + std::to_string(range.offset) + ", length " +
                                                  std::to_string(range.length) + " is not a range of its pages"));
        }
        PAGEFERRY_TRY(memory::discard(block, memory::Extent{.offset = range.offset, .length = range.length}));
    }
    return message.last ? channel_->send(session::DiscardDone{}) : Result<void>{};
}

Result<void> Destination::receive_guest() {
    for (;;) {
        auto received = inbox_->wait(message_wait);
        if (!received) {
            return std::unexpected(std::move(received.error()));
        }
        if (!*received) {
            continue;
        }
        auto& message = **received;
        if (const auto* wanted = std::get_if<session::Discard>(&message)) {
            PAGEFERRY_TRY(discard(*wanted));
        } else if (const auto* end = std::get_if<session::RoundEnd>(&message)) {
            config_.page->progress.dirty_sync_count = end->round;
            config_.page->progress.ram_transferred += end->bytes;
        } else if (auto* state = std::get_if<session::DeviceState>(&message)) {
            PAGEFERRY_TRY(device_state(std::move(state->bytes)));
        } else if (std::holds_alternative<session::Switchover>(message) && !switchover_) {
            switchover_ = true;
            if (relay_) {
                relay_->hold();
            }
        } else if (const auto* final = std::get_if<session::RamFinal>(&message);
                   final != nullptr && switchover_ && relay_ && !loaded_) {
            PAGEFERRY_TRY(load(final->device_state_bytes));
        } else if (const auto* permit = std::get_if<session::Permit>(&message); permit != nullptr && loaded_) {
            return run_guest(permit->running);
        } else {
            return std::unexpected(unexpected_message(message, "receive the guest"));
        }
    }
}

Result<void> Destination::device_state(std::vector<std::byte> bytes) {
    if (!relay_) {
        auto stream = guest_.start_device_load();
        if (!stream) {
            return std::unexpected(std::move(stream.error()));
        }
        auto relay = DeviceRelay::create(std::move(*stream), [](std::span<const std::byte> answer) -> Result<void> {
            return std::unexpected(make_error(ErrorCode::protocol, "load", "device state",
                                              "the hypervisor answered with " + std::to_string(answer.size()) +
                                                  " bytes, but a stream without return path has no answers"));
        });
        if (!relay) {
            return std::unexpected(std::move(relay.error()));
        }
        relay_ = std::move(*relay);
        if (switchover_) {
            relay_->hold(); // nothing had come before the guest was stopped
        }
        PAGEFERRY_TRY(relay_->begin());
    }
    config_.page->progress.device_bytes += bytes.size();
    return relay_->write(std::move(bytes));
}

// RAM is final and all device state is here: now it may be loaded, for loading reads guest RAM.
Result<void> Destination::load(std::uint64_t device_state_bytes) {
    if (relay_->bytes_written() != device_state_bytes) {
        return std::unexpected(make_error(ErrorCode::protocol, "load", "device state",
                                          "the source sent " + std::to_string(device_state_bytes) + " bytes, " +
                                              std::to_string(relay_->bytes_written()) + " arrived"));
    }
    relay_->release();
    for (;;) {
        const auto loaded = guest_.loaded(load_wait);
        if (!loaded) {
            return std::unexpected(loaded.error());
        }
        // Nothing may come now: more device state after RamFinal would never reach the hypervisor, and both sides would wait.
        const auto message = inbox_->wait(milliseconds{0});
        if (!message) {
            return std::unexpected(message.error());
        }
        if (*message) {
            return std::unexpected(unexpected_message(**message, "load device state"));
        }
        if (*loaded) {
            break;
        }
    }
    loaded_ = true;
    return channel_->send(session::DeviceLoaded{});
}

Result<void> Destination::run_guest(bool running) {
    if (!ran_) {
        if (memory_shared_) {
            PAGEFERRY_TRY(connection_->revoke_memory(revoke_timeout));
        }
        run_asked_ = true;
        if (auto run = guest_.run(running); !run) {
            run_refused_ = true;
            return run;
        }
        ran_ = true;
    }
    return say_running();
}

// The guest runs here: whatever happens to the connection now, this side has completed. The source's goodbye says that it knows.
Result<void> Destination::say_running() {
    const auto told = channel_->send(session::Running{});
    if (machine_.status() != statemachine::Status::completed) {
        PAGEFERRY_TRY(machine_.transition(statemachine::Status::completed, statemachine::Cause::finished));
    }
    PAGEFERRY_TRY(told);
    const auto goodbye = inbox_->wait(config_.options.dead_peer);
    if (!goodbye) {
        return std::unexpected(goodbye.error());
    }
    settled_ = *goodbye && std::holds_alternative<session::Goodbye>(**goodbye);
    return settled_ ? Result<void>{} : std::unexpected(no_message("Goodbye", config_.options.dead_peer));
}

} // namespace pageferry::engine
