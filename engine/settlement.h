// The source's half of settling a switchover whose connection broke after the permit and before the destination's word: connects
// again, gives the permit again, and hears that the guest runs there. The destination runs it once, however often it is permitted
// to.
//
//   postcopy-recover-setup → (connected) postcopy-recover → (agreed) postcopy-active → (running) completed; any failure:
//   postcopy-paused
//
// Nothing of the guest's RAM moves: it was all there before the first permit.
// Threads: run() on the engine's thread; cancel() by any.
#pragma once

#include "engine/peer.h"
#include "statemachine/machine.h"

namespace pageferry::engine {

class Settlement {
public:
    // machine: in postcopy-recover-setup.
    // running: what the permit said.
    Settlement(PeerConfig config, bool running, statemachine::Machine& machine)
        : peer_(std::move(config)), running_(running), machine_(machine) {}

    Result<void> run();
    void cancel() { peer_.cancel("the recovery was called off at the source"); }

private:
    Result<void> settle();

    Peer peer_;
    bool running_;
    statemachine::Machine& machine_;
};

} // namespace pageferry::engine
