#include "engine/source.h"

#include "engine/shared_ram.h"

#include <algorithm>
#include <utility>

namespace pageferry::engine {

namespace session = transport::session;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {
// One look for the guest's stop or the user's continue; between two of them the source goes on with dirty rounds and sees a lost
// peer.
constexpr milliseconds guest_wait{5};
constexpr milliseconds user_wait{50};
// Loading device state is the hypervisor's work and may read every disk; a dead peer is found much earlier, by its silence.
constexpr milliseconds load_timeout{600'000};
// Registering a large guest's memory takes seconds for each 100 GiB.
constexpr milliseconds memory_timeout{600'000};

PeerConfig with_features(PeerConfig config, bool postcopy) {
    config.features = postcopy ? session::feature_postcopy : 0;
    return config;
}
} // namespace

Source::Source(SourceConfig config, SourceGuest& guest, statemachine::Machine& machine)
    : config_(std::move(config)), guest_(guest), machine_(machine), progress_(config_.page->progress),
      peer_(with_features(std::move(config_.peer), config_.postcopy)), service_(peer_, *config_.page), pending_(config_.blocks) {
    std::uint64_t total = 0;
    std::uint64_t page_size = ~0ULL;
    for (const auto& block : config_.blocks) {
        total += block.info().length;
        page_size = std::min(page_size, block.info().page_size);
    }
    if (config_.discards != nullptr) {
        discards_.emplace(*config_.discards);
    }
    progress_.ram_total = total;
    progress_.ram_remaining = total;
    progress_.page_size = page_size;
}

Result<void> Source::run() {
    auto done = migrate();
    config_.tracker->stop();
    if (!done) {
        done = std::unexpected(peer_.cause(done.error()));
        finish(done.error());
    }
    return done;
}

void Source::cancel() {
    peer_.cancel("the migration was cancelled at the source");
}

void Source::finish(const Error& error) {
    using enum statemachine::Status;
    using statemachine::Cause;
    Result<void> moved;
    if (permitted_) {
        // Before postcopy-active nobody may ask for a pause: there it is the connection that is lost, whoever has ended it.
        const bool asked = peer_.cancelled() && machine_.status() == postcopy_active;
        moved = machine_.transition(postcopy_paused, asked ? Cause::requested : Cause::connection_lost, error.to_string());
    } else if (peer_.cancelled()) {
        moved = machine_.transition(cancelling, Cause::requested);
    } else {
        peer_.farewell(error.code, "the source failed: " + error.to_string());
        moved = machine_.transition(failing, Cause::error, error.to_string());
    }
    // A refusal here means that the owner was quicker (a cancel): the machine has moved on already.
    std::ignore = moved;
}

Result<void> Source::migrate() {
    const auto begun = steady_clock::now();
    PAGEFERRY_TRY(peer_.connect([this] { return share_memory(); }));
    PAGEFERRY_TRY(exchange_extents());
    progress_.setup_us =
        static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(steady_clock::now() - begun).count());
    PAGEFERRY_TRY(machine_.transition(statemachine::Status::active, statemachine::Cause::connected));
    PAGEFERRY_TRY(precopy());
    PAGEFERRY_TRY(switchover());
    return hand_over();
}

// Whether a connection can carry this guest's RAM shows when its memory is registered, here and then at the destination, whose
// first extents say that it is. Until they have come nothing was begun, and another transport may be tried.
Result<void> Source::share_memory() {
    const std::uint32_t access = PF_MEMORY_PUSH_SOURCE | (config_.postcopy ? PF_MEMORY_PULL_SOURCE : 0U);
    PAGEFERRY_TRY(peer_.connection().add_memory(shared_blocks(config_.blocks, access)));
    PAGEFERRY_TRY(peer_.send(ram_table(config_.blocks)));
    auto extents = peer_.expect<session::DataExtents>(memory_timeout);
    if (!extents) {
        return std::unexpected(std::move(extents.error()));
    }
    first_extents_ = std::move(*extents);
    return {};
}

// From the start of tracking on every write is seen; what the files held before is pushed in the first pass; what the destination
// holds and we do not is discarded there.
Result<void> Source::exchange_extents() {
    std::vector<const memory::RamBlock*> tracked;
    tracked.reserve(config_.blocks.size());
    for (const auto& block : config_.blocks) {
        tracked.push_back(&block);
    }
    PAGEFERRY_TRY(config_.tracker->start(tracked));
    last_collect_ = steady_clock::now();

    std::vector<std::vector<memory::Extent>> data;
    for (std::size_t block = 0; block < config_.blocks.size(); ++block) {
        auto extents = memory::data_extents(config_.blocks[block]);
        if (!extents) {
            return std::unexpected(std::move(extents.error()));
        }
        for (const auto& extent : *extents) {
            pending_.add(memory::BlockExtent{.block = block, .extent = extent});
        }
        data.push_back(std::move(*extents));
    }
    progress_.ram_remaining = pending_.bytes();
    progress_.ram_hole = progress_.ram_total - pending_.bytes();

    for (bool last = false; !last;) {
        auto theirs = first_extents_ ? Result<session::DataExtents>{*std::exchange(first_extents_, std::nullopt)}
                                     : peer_.expect<session::DataExtents>(peer_.config().options.handshake);
        if (!theirs) {
            return std::unexpected(std::move(theirs.error()));
        }
        last = theirs->last;
        if (theirs->block >= data.size()) {
            return std::unexpected(
                make_error(ErrorCode::protocol, "read DataExtents", "block " + std::to_string(theirs->block), "no such block"));
        }
        std::vector<memory::Extent> held;
        for (const auto& range : theirs->ranges) {
            held.push_back(memory::Extent{.offset = range.offset, .length = range.length});
        }
        const auto stale = memory::subtract(held, data[theirs->block]);
        std::size_t sent = 0;
        do {
            session::Discard discard{.block = theirs->block, .last = false, .ranges = {}};
            for (; sent < stale.size() && discard.ranges.size() < session::max_ranges; ++sent) {
                discard.ranges.push_back(session::Range{.offset = stale[sent].offset, .length = stale[sent].length});
            }
            discard.last = last && sent == stale.size();
            if (!discard.ranges.empty() || discard.last) {
                PAGEFERRY_TRY(peer_.send(discard));
            }
        } while (sent < stale.size());
    }
    const auto done = peer_.expect<session::DiscardDone>(load_timeout);
    if (!done) {
        return std::unexpected(done.error());
    }
    // Only now: what is registered while the destination punches holes into it would not be what its guest sees.
    PAGEFERRY_TRY(prepare(data));
    progress_.lanes = peer_.connection().counters().lanes;
    pusher_.emplace(peer_.connection(), progress_, config_.page->limits);
    return {};
}

// The first pass, for transports that register memory ahead of the pushes.
Result<void> Source::prepare(const std::vector<std::vector<memory::Extent>>& data) {
    std::vector<pf_extent> extents;
    for (std::uint32_t block = 0; const auto& of_block : data) {
        for (const auto& extent : of_block) {
            extents.push_back(
                pf_extent{.block = block, .reserved = 0, .offset = extent.offset, .length = extent.length, .cookie = 0});
        }
        ++block;
    }
    return peer_.connection().prepare(extents);
}

milliseconds Source::downtime_limit() const {
    return milliseconds{config_.page->limits.downtime_limit_ms.load(std::memory_order_relaxed)};
}

// One round: what is pending, all of it, landed. It is cut short where a postcopy is to begin.
Result<void> Source::round(bool paced) {
    const std::uint64_t before = pusher_->bytes_pushed();
    const auto begun = steady_clock::now();
    ++round_;
    progress_.dirty_sync_count = round_;
    std::function<bool()> until;
    if (config_.postcopy && !postcopy_) {
        until = [this] { return in_postcopy(); };
    }
    PAGEFERRY_TRY(pusher_->push_all(pending_, paced, until));
    const std::uint64_t pushed = pusher_->bytes_pushed() - before;
    if (pushed == 0) {
        return {}; // what went before was fenced by its own round
    }
    PAGEFERRY_TRY(pusher_->fence(peer_.config().options.dead_peer));
    convergence_.pushed(pushed, steady_clock::now() - begun);
    if (!paced) {
        progress_.downtime_bytes += pushed;
    }
    return peer_.send(session::RoundEnd{.round = round_, .bytes = pushed});
}

Result<void> Source::precopy() {
    PAGEFERRY_TRY(round(true));
    while (!in_postcopy()) {
        const auto left = config_.tracker->estimate();
        if (!left) {
            return std::unexpected(left.error());
        }
        const std::uint64_t fixed = config_.page->limits.switchover_bandwidth.load(std::memory_order_relaxed);
        progress_.ram_remaining = *left;
        progress_.expected_downtime_ms = static_cast<std::uint64_t>(convergence_.expected_downtime(*left, fixed).count());
        if (convergence_.converged(*left, fixed, downtime_limit())) {
            return {};
        }
        PAGEFERRY_TRY(collect());
        PAGEFERRY_TRY(round(true));
    }
    return {};
}

// Dirty pages become pending; the dirty rate follows from how long they took to become so many. No push is under way.
Result<void> Source::collect() {
    dirty_.clear();
    const auto collected = config_.tracker->collect(dirty_);
    pending_.add(dirty_); // also on failure: what was made clean must not be lost
    PAGEFERRY_TRY(collected);
    PAGEFERRY_TRY(note_discards());
    const auto now = steady_clock::now();
    const double seconds = std::chrono::duration<double>(now - std::exchange(last_collect_, now)).count();
    if (seconds > 0) {
        const double pages = static_cast<double>(pending_.bytes()) / static_cast<double>(progress_.page_size.load());
        progress_.dirty_pages_rate = static_cast<std::uint64_t>(pages / seconds);
    }
    progress_.ram_remaining = pending_.bytes();
    return {};
}

// After the look at the pages: one that was discarded and written again is dirty, and its discard was counted before it was
// written. One that is discarded later will be dirty again, and is for the next look.
Result<void> Source::note_discards() {
    return discards_ && discards_->anything() ? peer_.connection().memory_replaced() : Result<void>{};
}

// The guest still runs while the hypervisor saves what it can of it: what it writes goes now, or the rest would be more than was
// reckoned with. From the moment it stands still nothing is waited for: what is pending then belongs to the last round.
Result<void> Source::wait_until_stopped() {
    for (;;) {
        const auto stopped = guest_.stopped(guest_wait);
        if (!stopped) {
            return std::unexpected(stopped.error());
        }
        if (*stopped) {
            return {};
        }
        if (in_postcopy()) {
            continue; // what is left is for the destination to pull
        }
        PAGEFERRY_TRY(collect());
        PAGEFERRY_TRY(pusher_->push_all(pending_, true, [this] {
            if (in_postcopy()) {
                return true;
            }
            const auto now = guest_.stopped(milliseconds{0});
            return !now || *now; // an error shows at the next look
        }));
        PAGEFERRY_TRY(pusher_->fence(peer_.config().options.dead_peer)); // the same page may go again, by another lane
    }
}

Result<void> Source::switchover() {
    auto save = guest_.start_device_save();
    if (!save) {
        return std::unexpected(std::move(save.error()));
    }
    auto relay = DeviceRelay::create(std::move(*save), [this](std::span<const std::byte> bytes) {
        progress_.device_bytes += bytes.size();
        return peer_.send(session::DeviceState{.bytes = {bytes.begin(), bytes.end()}});
    });
    if (!relay) {
        return std::unexpected(std::move(relay.error()));
    }
    relay_ = std::move(*relay);
    PAGEFERRY_TRY(relay_->begin());
    PAGEFERRY_TRY(wait_until_stopped());
    stopped_at_ = guest_.stopped_at();
    postcopy_ = in_postcopy(); // from here on it is too late to ask
    PAGEFERRY_TRY(peer_.send(session::Switchover{}));

    if (config_.pause_before_switchover) {
        PAGEFERRY_TRY(machine_.transition(statemachine::Status::pre_switchover, statemachine::Cause::stopped));
    }
    if (!postcopy_) {
        PAGEFERRY_TRY(collect());
        PAGEFERRY_TRY(round(false));
    }
    if (config_.pause_before_switchover) {
        for (bool go = false; !go;) {
            const auto continued = guest_.continued(user_wait);
            if (!continued) {
                return std::unexpected(continued.error());
            }
            if (auto lost = peer_.inbox().error()) {
                return std::unexpected(*lost);
            }
            go = *continued;
        }
        if (!postcopy_) {
            // Storage jobs may have written to guest RAM while the user was asked.
            PAGEFERRY_TRY(collect());
            PAGEFERRY_TRY(round(false));
        }
    }
    const auto why = config_.pause_before_switchover ? statemachine::Cause::requested : statemachine::Cause::stopped;
    PAGEFERRY_TRY(machine_.transition(statemachine::Status::device, why));
    PAGEFERRY_TRY(guest_.finish_device_save());
    PAGEFERRY_TRY(relay_->drain(peer_.config().options.dead_peer));
    if (postcopy_) {
        PAGEFERRY_TRY(end_precopy());
    } else {
        // Saving device state may have written guest RAM: one more scan after it, and a fence behind everything.
        PAGEFERRY_TRY(collect());
        PAGEFERRY_TRY(round(false));
    }
    PAGEFERRY_TRY(peer_.send(session::RamFinal{.device_state_bytes = relay_->bytes_read(), .postcopy = postcopy_}));
    return postcopy_ ? machine_.transition(statemachine::Status::postcopy_device, statemachine::Cause::device_saved)
                     : Result<void>{};
}

// What was pushed has landed, each push behind its own fence, and saving device state may have written guest RAM: what of it is
// stale is looked for from here on.
Result<void> Source::end_precopy() {
    PAGEFERRY_TRY(note_discards());
    delivered_.emplace(config_.blocks, *config_.tracker, pending_, peer_, config_.telling);
    PAGEFERRY_TRY(delivered_->tell_while_stopped());
    progress_.ram_remaining = pending_.bytes();
    PAGEFERRY_TRY(service_.tell_limit());
    if (!delivered_->all_told()) {
        service_.go_on_telling(*delivered_);
    }
    return {};
}

Result<void> Source::hand_over() {
    const auto loaded = service_.expect<session::DeviceLoaded>(load_timeout);
    if (!loaded) {
        return std::unexpected(loaded.error());
    }
    const auto to_run = guest_.commit();
    if (!to_run) {
        return std::unexpected(to_run.error());
    }
    permitted_ = true;
    PAGEFERRY_TRY(peer_.send(session::Permit{.running = *to_run}));
    // Not earlier: a user who pauses it from now on does so behind the permit, and the destination hears the permit first.
    if (postcopy_) {
        PAGEFERRY_TRY(machine_.transition(statemachine::Status::postcopy_active, statemachine::Cause::device_loaded));
    }
    const auto running = service_.expect<session::Running>(load_timeout);
    if (!running) {
        // The one certain word that it never ran there.
        if (running.error().code == ErrorCode::refused && !postcopy_) {
            permitted_ = false;
        }
        return std::unexpected(running.error());
    }
    progress_.downtime_us = static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(steady_clock::now() - stopped_at_).count());
    if (postcopy_) {
        PAGEFERRY_TRY(service_.until_received());
    }
    progress_.ram_remaining = 0;
    peer_.inbox().expect_end();
    PAGEFERRY_TRY(machine_.transition(statemachine::Status::completed, statemachine::Cause::finished));
    std::ignore = peer_.send(session::Goodbye{}); // the destination runs; whether it hears this changes nothing
    return {};
}

} // namespace pageferry::engine
