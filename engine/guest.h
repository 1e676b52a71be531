// What the engine asks of the hypervisor whose guest moves: to save and load what is not RAM, to stop, and to run.
//
// Implemented in hypervisor/. Threads: called by the engine's own thread; cancel() of the engine makes every call under way
// answer `cancelled` soon. Resuming a source guest after a failure is not here: whoever owns the guest does it when it sees the
// engine fail or die.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <chrono>
#include <functional>

namespace pageferry::engine {

class SourceGuest {
public:
    virtual ~SourceGuest() = default;

    // The hypervisor begins to save its state into a stream socket (answers for it go in), and stops the guest as soon as what
    // can be saved of a running guest is saved.
    virtual Result<Fd> start_device_save() = 0;
    // The guest is stopped and its state waits to be saved; false: not yet, after at most `wait`.
    virtual Result<bool> stopped(std::chrono::milliseconds wait) = 0;
    // When that was; called once stopped() has answered true.
    [[nodiscard]] virtual std::chrono::steady_clock::time_point stopped_at() const = 0;
    // With pause-before-switchover: true once the user let it go on (migrate-continue); false: not yet, after at most `wait`.
    virtual Result<bool> continued(std::chrono::milliseconds wait) = 0;
    // Saves the rest. When it answers, every byte has been written into the stream, and nothing writes guest RAM any more.
    virtual Result<void> finish_device_save() = 0;
    // The point of no return: after it succeeds the guest never runs here again unless the peer says that it did not run there.
    // Answers whether the guest is to run there: it ran before the switchover, or the user said so since.
    virtual Result<bool> commit() = 0;
};

class DestinationGuest {
public:
    virtual ~DestinationGuest() = default;

    // The hypervisor begins to load its state from a stream.
    virtual Result<Fd> start_device_load() = 0;
    // All of it is loaded; false: not yet, after at most `wait`.
    virtual Result<bool> loaded(std::chrono::milliseconds wait) = 0;
    // The hypervisor forgets which pages of guest RAM it has mapped: every touch after this is a page fault. The pages stay.
    virtual Result<void> drop_mappings() = 0;
    // The permit has come. `running`: the guest ran at the source. Success: the guest is this side's, running unless the user
    // asked otherwise.
    virtual Result<void> run(bool running) = 0;
};

} // namespace pageferry::engine
