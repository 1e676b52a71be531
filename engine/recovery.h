// The source's half of a later connection of a session that was not settled: it connects again, agrees with the destination on
// what is open, and sees it to its end. What is open may be the permit, if the connection broke before the destination's word
// that it runs, and in a postcopy the pages that the destination has not pulled yet.
//
//   postcopy-recover-setup → (connected, hello) postcopy-recover → (RAM table, Resume) postcopy-active → (Received) completed;
//   any failure: postcopy-paused
//
// Nothing is lost by an attempt that fails, however often: the source's RAM stands still, and the destination knows what it has.
// Threads: run() on the engine's thread; the rest by any.
#pragma once

#include "engine/control_page.h"
#include "engine/peer.h"
#include "engine/postcopy/page_service.h"
#include "memory/ram_block.h"
#include "statemachine/machine.h"

#include <atomic>
#include <vector>

namespace pageferry::engine {

struct RecoveryConfig {
    std::vector<memory::RamBlock> blocks;
    PeerConfig peer;
    bool running = true;         // what the permit says
    ControlPage* page = nullptr; // outlives the recovery
};

class Recovery {
public:
    // machine: in postcopy-recover-setup.
    Recovery(RecoveryConfig config, statemachine::Machine& machine);

    Result<void> run();
    void cancel() { peer_.cancel("the recovery was called off at the source"); }
    // migrate-pause: the attempt, or the postcopy that goes on, ends at once.
    void pause() { peer_.pause(); }

private:
    Result<void> recover();
    Result<void> share_memory();

    RecoveryConfig config_;
    statemachine::Machine& machine_;
    Peer peer_;
    PageService service_;
};

} // namespace pageferry::engine
