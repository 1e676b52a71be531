// The source of a migration: precopy, switchover, hand-over; in a postcopy, serving the pages that were not sent.
//
//   connect (hello, memory of both sides, RAM tables; by the next transport where one cannot) → agree what to discard → precopy
//   (first pass over data, dirty rounds) → switchover (device state, last pages, fence) → hand over (loaded, permit, running)
//
// start_postcopy() ends precopy: what the destination has not then, or not as it is, is told to it instead of being pushed, and
// the destination pulls it, from before the permit to the end (engine/postcopy/page_service.h).
//
// Up to the permit any failure leaves the guest as it was: nothing of its memory was changed, and the owner of the guest resumes
// it. After the permit it never runs here again by itself: a connection that is lost then is for a recovery (engine/recovery.h).
// Threads: run() on the engine's thread; the rest by any thread.
#pragma once

#include "engine/control_page.h"
#include "engine/convergence.h"
#include "engine/device_relay.h"
#include "engine/discard_watch.h"
#include "engine/guest.h"
#include "engine/peer.h"
#include "engine/pending_pages.h"
#include "engine/postcopy/page_service.h"
#include "engine/pusher.h"
#include "memory/dirty_tracker.h"
#include "memory/ram_block.h"
#include "statemachine/machine.h"
#include "transport/session/messages.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace pageferry::engine {

struct SourceConfig {
    std::vector<memory::RamBlock> blocks;
    std::unique_ptr<memory::DirtyTracker> tracker;
    PeerConfig peer;
    bool pause_before_switchover = false;
    bool postcopy = false;       // it may become one: the destination must have the means
    ControlPage* page = nullptr; // outlives the source
    // Outlive the source. nullptr: nobody counts discards, so peer.no_pinning is to be set where there may be any.
    const DiscardCounters* discards = nullptr;
    Telling telling{};
};

class Source {
public:
    Source(SourceConfig config, SourceGuest& guest, statemachine::Machine& machine);

    Source(const Source&) = delete;
    Source& operator=(const Source&) = delete;

    // The whole migration. At the end the machine is `completed`, or `failing` (the owner resumes the guest and goes on to
    // `failed`), or `cancelling` after cancel(), or `postcopy-paused` when the peer was lost after the permit.
    Result<void> run();
    // Ends run() within 100 ms, whatever it waits for in here; the guest's own waits are the owner's to end.
    void cancel();
    // As soon as the guest's RAM is being sent; nothing where the migration may not become a postcopy.
    void start_postcopy() { postcopy_asked_ = true; }
    // migrate-pause, in postcopy-active: the connection ends, and run() with it.
    void pause() { peer_.pause(); }

private:
    Result<void> migrate();
    Result<void> share_memory();
    Result<void> exchange_extents();
    Result<void> prepare(const std::vector<std::vector<memory::Extent>>& data);
    Result<void> precopy();
    Result<void> collect();
    Result<void> round(bool paced);
    Result<void> switchover();
    Result<void> wait_until_stopped();
    Result<void> end_precopy();
    Result<void> note_discards();
    Result<void> hand_over();
    [[nodiscard]] bool in_postcopy() const { return config_.postcopy && postcopy_asked_; }
    void finish(const Error& error);
    [[nodiscard]] std::chrono::milliseconds downtime_limit() const;

    SourceConfig config_;
    SourceGuest& guest_;
    statemachine::Machine& machine_;
    Progress& progress_;
    Peer peer_;
    PageService service_;
    std::unique_ptr<DeviceRelay> relay_; // after peer_: its thread sends there, and ends first
    std::optional<Pusher> pusher_;
    std::optional<transport::session::DataExtents> first_extents_; // the destination's, of which more come
    std::optional<DiscardWatch> discards_;                         // from before anything was registered
    PendingPages pending_;
    std::optional<DeliveredPages> delivered_;
    Convergence convergence_;
    std::vector<memory::BlockExtent> dirty_; // of one round; kept for its memory
    std::uint64_t round_ = 0;
    std::chrono::steady_clock::time_point last_collect_;
    std::chrono::steady_clock::time_point stopped_at_;
    std::atomic<bool> postcopy_asked_{false};
    bool postcopy_ = false; // from the switchover on
    bool permitted_ = false;
};

} // namespace pageferry::engine
