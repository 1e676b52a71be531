// Serves the guest's page faults in a postcopy: maps what is here, asks for what is missing.
//
// It serves from before device state is loaded until everything has been received, whether there is a connection or not: without
// one, whoever touches a missing page waits, and everybody else goes on. Missing pages that somebody waits for are noted in the
// page map, and asked for again on the next connection.
//
// Threads: its own ("pf-faults") from start() on. attach(), detach() and stop() by the engine's; ask_again() by any.
#pragma once

#include "base/error.h"
#include "engine/postcopy/pull_target.h"
#include "engine/postcopy/puller.h"

#include <atomic>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

namespace pageferry::engine {

class FaultServer {
public:
    // failed: told, on its thread, when it cannot go on; see error().
    FaultServer(PullTarget target, std::function<void()> failed) : target_(target), failed_(std::move(failed)) {}
    ~FaultServer() { stop(); }
    FaultServer(const FaultServer&) = delete;
    FaultServer& operator=(const FaultServer&) = delete;

    void start();
    void stop(); // nobody serves faults any more: everything is here, or nothing will come
    // From now on missing pages are asked of it, first those that are waited for already.
    void attach(Puller& puller);
    // After the return the puller is not used any more. Its connection is over or cancelled.
    void detach();
    // Requests that found the queue full are made again.
    void ask_again();
    [[nodiscard]] std::optional<Error> error() const;

private:
    void run();
    Result<void> serve(const memory::Fault& fault);
    Result<void> map_around(const memory::Fault& fault);
    void ask_for_wanted();

    PullTarget target_;
    std::function<void()> failed_;
    mutable std::mutex mutex_; // of puller_ and error_; taken once for each batch of faults
    Puller* puller_ = nullptr;
    std::optional<Error> error_;
    std::atomic<bool> again_{false};
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

} // namespace pageferry::engine
