// Registers memory in the background: a few threads that populate a stretch first, so that pinning it finds every page there,
// and then register it. Populating in parallel is where the time goes.
//
// Threads: any. Results are told on the registrar's threads.
#pragma once

#include "base/error.h"
#include "rdma/handles.h"
#include "rdma/kit.h"
#include "rdma/region_table.h"
#include "transport/plugin/threads.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace pageferry::rdma {

class Registrar {
public:
    struct Job {
        std::byte* address = nullptr;
        std::uint64_t length = 0;                                            // bytes
        int access = 0;                                                      // IBV_ACCESS_*
        bool for_peer = false;                                               // it is going to be reached from there
        std::uint32_t number = 0;                                            // for hurry()
        std::function<void(Result<MemoryRegion>, std::uint64_t round)> done; // round: in which it was begun
    };

    // pd outlives it.
    explicit Registrar(ibv_pd* pd) : pd_(pd) {}
    ~Registrar(); // what is queued is dropped
    Registrar(const Registrar&) = delete;
    Registrar& operator=(const Registrar&) = delete;

    // The more urgent go first, and of those that a fault waits for one never waits for a thread that does others. Starts the
    // threads it needs. resources: no thread left. state: stopped, or it is for the peer and those were.
    Result<void> add(Job job, Urgency urgency);
    // A fault waits for that one now; not for the peer. It may be under way already, or done.
    void hurry(std::uint32_t number);
    // What is begun from now on is of this round.
    std::uint64_t new_round();
    // Drops what is queued for the peer, and waits for what is being registered for it. Nothing for it is taken any more.
    void stop_for_peer();
    // The same of everything.
    void stop();

private:
    void run();
    void queue(Job job, Urgency urgency);
    [[nodiscard]] std::size_t queued() const;
    // The one whose turn it is; nullptr: none now.
    std::deque<Job>* next();
    Result<void> start_threads();
    [[nodiscard]] Result<MemoryRegion> carry_out(const Job& job) const;

    ibv_pd* const pd_;
    std::mutex mutex_;
    Condition changed_;
    std::array<std::deque<Job>, 3> queues_; // by urgency
    std::vector<std::thread> threads_;
    Condition drained_; // for stop(), whatever its kind
    std::size_t busy_ = 0;
    std::size_t busy_with_others_ = 0; // than faults
    std::size_t busy_for_peer_ = 0;
    std::uint64_t round_ = 0;
    bool stopped_ = false;
    bool stopped_for_peer_ = false;
};

} // namespace pageferry::rdma
