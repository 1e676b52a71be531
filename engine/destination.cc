#include "engine/destination.h"

#include "engine/answer_timeout.h"
#include "engine/peer.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace pageferry::engine {

namespace session = transport::session;
using statemachine::Cause;
using statemachine::Status;
using std::chrono::milliseconds;

namespace {
constexpr milliseconds message_wait{500};
constexpr milliseconds load_wait{50};
constexpr milliseconds look_interval{200};
constexpr milliseconds revoke_timeout{10'000};
constexpr milliseconds farewell{200};

ReceptionConfig with_features(ReceptionConfig config, bool postcopy) {
    config.features = postcopy ? session::feature_postcopy : 0;
    return config;
}
} // namespace

Destination::Destination(DestinationConfig config, DestinationGuest& guest, statemachine::Machine& machine)
    : config_(std::move(config)), guest_(guest), machine_(machine), progress_(config_.page->progress),
      dead_peer_(config_.reception.options.dead_peer),
      reception_(with_features(std::move(config_.reception), config_.postcopy.has_value())) {
    std::uint64_t total = 0;
    for (const auto& block : config_.blocks) {
        total += block.info().length;
    }
    progress_.ram_total = total;
    if (config_.postcopy) {
        receiver_ = std::make_unique<PageReceiver>(config_.blocks, std::move(*config_.postcopy), *config_.page,
                                                   [this] { reception_.wake(); });
    }
    if (config_.unsettled) {
        session_ = config_.unsettled->session;
        epoch_ = config_.unsettled->epoch;
        ran_ = config_.unsettled->ran;
        postcopy_ = config_.unsettled->postcopy && receiver_ != nullptr;
        loaded_ = true;
    }
}

Destination::~Destination() {
    if (receiver_) {
        reception_.cancel(ErrorCode::cancelled, "the destination ends");
        receiver_->disconnect();
    }
    reception_.drop();
    relay_.reset();
}

void Destination::cancel() {
    // `refused` is the one certain word: this side was never asked to run the guest, and is not going to be.
    reception_.cancel(run_asked_ ? ErrorCode::cancelled : ErrorCode::refused, "the destination gave up");
}

void Destination::pause() {
    paused_ = true; // before the connection ends: what ends with it asks why
    if (!reception_.interrupt(ErrorCode::cancelled, "Postcopy migration is paused by the user")) { // QEMU's words
        paused_ = false;
    }
}

Result<void> Destination::run() {
    if (!config_.unsettled) {
        if (auto done = serve(); !done) {
            const Error error = reception_.cause(done.error());
            // Once the source may have sent its permit, only a certain word says that the guest does not run here: the source's
            // own, or the hypervisor's refusal to run it.
            const bool told = reception_.connected() && reception_.channel().peer_failed();
            const bool uncertain = loaded_ && !run_refused_ && (!told || machine_.status() == Status::postcopy_active);
            if (!uncertain && !ran_) {
                fail(error);
                return std::unexpected(error);
            }
            lost(error);
        }
    } else if (postcopy_ && machine_.status() != Status::completed) {
        PAGEFERRY_TRY(receiver_->take_over()); // faults go on being served while the source is waited for
    }
    while (!settled_ && !reception_.cancelled()) {
        if (auto done = settle(); !done) {
            const Error error = reception_.cause(done.error());
            lost(error);
            const bool blind = receiver_ && receiver_->broken();
            if ((deaf_ || blind) && !reception_.cancelled()) {
                return std::unexpected(error); // whoever owns this process starts another
            }
        }
    }
    if (!settled_ && !ran_) {
        return std::unexpected(make_error(ErrorCode::cancelled, "settle", reception_.uri(), "the permit to run has not come"));
    }
    return {};
}

void Destination::fail(const Error& error) {
    if (reception_.connected()) {
        const ErrorCode code = run_refused_ ? ErrorCode::refused : error.code;
        std::ignore = reception_.channel().send_within(
            session::Failure{.code = code, .text = "the destination failed: " + error.to_string()}, farewell);
    }
    // Refused only where the owner was quicker.
    std::ignore = machine_.transition(Status::failed, Cause::error, error.to_string());
}

// The connection is gone, and who runs the guest is not settled, or the source does not know it yet, or pages are missing.
void Destination::lost(const Error& error) {
    const auto status = machine_.status();
    const bool asked = paused_.exchange(false) && (status == Status::postcopy_active || status == Status::postcopy_recover);
    if (status != Status::completed && status != Status::postcopy_paused) {
        std::ignore =
            machine_.transition(Status::postcopy_paused, asked ? Cause::requested : Cause::connection_lost, error.to_string());
    }
    if (receiver_ && reception_.connected()) {
        reception_.connection().cancel();
        receiver_->disconnect();
    }
    relay_.reset();
    memory_shared_ = false;
    reception_.drop();
}

Result<Destination::Peer> Destination::turn_away(Error error) {
    const auto turned = reception_.turn_away(std::move(error));
    if (!turned) {
        return std::unexpected(turned.error());
    }
    return Peer::stranger;
}

Result<void> Destination::serve() {
    for (;;) {
        const auto hello = reception_.next();
        if (!hello) {
            return std::unexpected(hello.error());
        }
        if (!*hello) {
            continue;
        }
        const auto peer = greet(**hello);
        if (!peer) {
            return std::unexpected(peer.error());
        }
        if (*peer == Peer::source) {
            return receive_guest();
        }
        memory_shared_ = false;
    }
}

Result<session::Message> Destination::answer(std::string_view wanted, milliseconds timeout) {
    using Clock = std::chrono::steady_clock;
    const auto limit = Clock::now() + timeout;
    for (;;) {
        auto message = reception_.inbox().wait(std::max(std::chrono::ceil<milliseconds>(limit - Clock::now()), milliseconds{0}));
        if (!message) {
            return std::unexpected(std::move(message.error()));
        }
        if (*message) {
            return std::move(**message);
        }
        if (Clock::now() >= limit) {
            return std::unexpected(no_message(wanted, timeout));
        }
    }
}

// The source's RAM table, and for each of its entries the number of the block here.
Result<std::vector<std::size_t>> Destination::agree_on_ram() {
    const auto message = answer("RamTable", answer_timeout);
    if (!message) {
        return std::unexpected(reception_.cause(message.error()));
    }
    const auto* table = std::get_if<session::RamTable>(&*message);
    if (table == nullptr) {
        return std::unexpected(unexpected_message(*message, "RAM table"));
    }
    std::vector<session::RamTableEntry> local;
    local.reserve(config_.blocks.size());
    for (const auto& block : config_.blocks) {
        local.push_back(session::RamTableEntry{.block = static_cast<std::uint32_t>(local.size()),
                                               .name = block.info().name,
                                               .length = block.info().length,
                                               .page_size = block.info().page_size});
    }
    return session::match_ram_tables(table->blocks, local);
}

// Hello, RAM tables and memory. Whoever fails here was a stranger; from `active` on it is the source.
Result<Destination::Peer> Destination::greet(const session::Hello& hello) {
    const bool theirs = (hello.features & session::feature_postcopy) != 0;
    const bool probe = (hello.features & session::feature_probe) != 0;
    if (theirs != (receiver_ != nullptr) && !probe) {
        const std::string on = theirs ? "source" : "destination";
        const std::string off = theirs ? "destination" : "source";
        return turn_away(make_error(ErrorCode::invalid_argument, "hello", reception_.uri(),
                                    "the capability postcopy-ram is on at the " + on + " and off at the " + off,
                                    "set it the same on both sides before the migration"));
    }
    if (auto welcomed = reception_.welcome(hello); !welcomed) {
        return turn_away(welcomed.error());
    }
    const auto order = agree_on_ram();
    if (!order) {
        return turn_away(order.error());
    }
    if (const auto shared = share_memory(*order); !shared) {
        // The source has not begun either: it may come by another transport, where there is one.
        if (reception_.ways() > 1 && another_may_do(shared.error(), true)) {
            return turn_away(shared.error());
        }
        return std::unexpected(shared.error());
    }
    if (receiver_) {
        receiver_->begin(); // not when the guest is stopped: it takes the longer the more RAM there is
    }
    session_ = hello.session;
    epoch_ = hello.epoch;
    config_.accepted(session_, epoch_);
    reception_.tell();
    PAGEFERRY_TRY(machine_.transition(Status::active, Cause::connected));
    PAGEFERRY_TRY(send_extents());
    return Peer::source;
}

// The first connection may push into it; a later one is only pulled over.
Result<void> Destination::share_memory(const std::vector<std::size_t>& order) {
    blocks_.clear();
    numbers_.assign(order.size(), 0);
    const std::uint32_t access = (loaded_ ? 0U : PF_MEMORY_PUSH_TARGET) | (receiver_ ? PF_MEMORY_PULL_TARGET : 0U);
    std::vector<transport::MemoryBlock> shared;
    for (const std::size_t local : order) {
        auto& block = config_.blocks[local];
        const auto number = static_cast<std::uint32_t>(blocks_.size());
        numbers_[local] = number;
        shared.push_back(transport::MemoryBlock{.block = number,
                                                .name = block.info().name,
                                                .address = block.alias(),
                                                .length = block.info().length,
                                                .page_size = block.info().page_size,
                                                .access = access});
        blocks_.push_back(&block);
    }
    if (access != 0) {
        PAGEFERRY_TRY(reception_.connection().add_memory(shared));
    }
    memory_shared_ = !loaded_;
    progress_.lanes = reception_.connection().counters().lanes;
    return {};
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
            PAGEFERRY_TRY(reception_.channel().send(message));
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
    return message.last ? reception_.channel().send(session::DiscardDone{}) : Result<void>{};
}

Result<void> Destination::receive_guest() {
    for (;;) {
        auto received = reception_.inbox().wait(message_wait);
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
            progress_.dirty_sync_count = end->round;
            progress_.ram_transferred += end->bytes;
        } else if (auto* state = std::get_if<session::DeviceState>(&message)) {
            PAGEFERRY_TRY(device_state(std::move(state->bytes)));
        } else if (std::holds_alternative<session::Switchover>(message) && !switchover_) {
            switchover_ = true;
            if (relay_) {
                relay_->hold();
            }
        } else if (const auto* final = std::get_if<session::RamFinal>(&message);
                   final != nullptr && switchover_ && relay_ && !loaded_) {
            PAGEFERRY_TRY(load(*final));
        } else if (about_pulls(message) && switchover_ && receiver_) {
            PAGEFERRY_TRY(note(message));
        } else if (const auto* permit = std::get_if<session::Permit>(&message); permit != nullptr && loaded_) {
            PAGEFERRY_TRY(run_guest(permit->running));
            if (!postcopy_) {
                return finish(session::Running{});
            }
            PAGEFERRY_TRY(reception_.channel().send(session::Running{}));
            PAGEFERRY_TRY(pull_the_rest());
            return finish(session::Received{});
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
    progress_.device_bytes += bytes.size();
    return relay_->write(std::move(bytes));
}

// RAM is final, or what is missing is known, and all device state is here: now it may be loaded, for loading reads guest RAM.
Result<void> Destination::load(const session::RamFinal& final) {
    if (relay_->bytes_written() != final.device_state_bytes) {
        return std::unexpected(make_error(ErrorCode::protocol, "load", "device state",
                                          "the source sent " + std::to_string(final.device_state_bytes) + " bytes, " +
                                              std::to_string(relay_->bytes_written()) + " arrived"));
    }
    if (final.postcopy) {
        if (!receiver_) {
            return std::unexpected(unexpected_message(session::Message{final}, "receive a guest without postcopy"));
        }
        PAGEFERRY_TRY(start_pulling());
    }
    relay_->release();
    for (;;) {
        const auto loaded = guest_.loaded(load_wait);
        if (!loaded) {
            return std::unexpected(loaded.error());
        }
        // More device state after RamFinal would never reach the hypervisor, and both sides would wait.
        const auto message = reception_.inbox().wait(milliseconds{0});
        if (!message) {
            return std::unexpected(message.error());
        }
        if (*message) {
            if (!about_pulls(**message) || !postcopy_) {
                return std::unexpected(unexpected_message(**message, "load device state"));
            }
            PAGEFERRY_TRY(note(**message));
        }
        if (postcopy_) {
            if (auto error = receiver_->error()) {
                return std::unexpected(*error);
            }
        }
        if (*loaded) {
            break;
        }
    }
    loaded_ = true;
    return reception_.channel().send(session::DeviceLoaded{});
}

Result<void> Destination::run_guest(bool running) {
    if (memory_shared_) {
        PAGEFERRY_TRY(reception_.connection().revoke_memory(revoke_timeout));
        memory_shared_ = false;
    }
    if (machine_.status() == Status::postcopy_device) {
        PAGEFERRY_TRY(machine_.transition(Status::postcopy_active, Cause::device_loaded));
    }
    run_asked_ = true;
    if (auto run = guest_.run(running); !run) {
        run_refused_ = !postcopy_;
        return run;
    }
    ran_ = true;
    return {};
}

// The guest is here, all of it: whatever happens to the connection now, this side has completed. The source's goodbye says that
// it knows.
Result<void> Destination::finish(const session::Message& last_word) {
    const auto told = reception_.channel().send(last_word);
    if (machine_.status() != Status::completed) {
        PAGEFERRY_TRY(machine_.transition(Status::completed, Cause::finished));
    }
    PAGEFERRY_TRY(told);
    const auto limit = std::chrono::steady_clock::now() + dead_peer_;
    for (;;) {
        const auto message = reception_.inbox().wait(look_interval);
        if (!message) {
            return std::unexpected(message.error());
        }
        if (!*message) {
            if (std::chrono::steady_clock::now() >= limit) {
                return std::unexpected(no_message("Goodbye", dead_peer_));
            }
            PAGEFERRY_TRY(look_at_the_door());
        } else if (!about_pulls(**message)) { // those were under way
            settled_ = std::holds_alternative<session::Goodbye>(**message);
            return settled_ ? Result<void>{} : std::unexpected(unexpected_message(**message, "wait for Goodbye"));
        }
    }
}

} // namespace pageferry::engine
