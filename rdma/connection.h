// One connection, on either side: what pf_connection is. Before connect() only options; then lanes, and one thread of its own
// (service.h).
//
// Threads, times and errors: as transport/abi/pageferry_transport.h says.
#pragma once

#include "rdma/control_lane.h"
#include "rdma/data_lanes.h"
#include "rdma/kit.h"
#include "rdma/lane_set.h"
#include "rdma/reaper.h"
#include "rdma/service.h"
#include "transport/plugin/deadline.h"
#include "transport/plugin/ending.h"
#include "transport/plugin/fault.h"
#include "transport/plugin/memory_table.h"
#include "transport/plugin/op_kind.h"
#include "transport/uri.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

namespace pageferry::rdma {

class Connection {
public:
    // A connection still to be made. invalid_argument: not a URI of ours.
    static Result<std::unique_ptr<Connection>> open(const std::string& uri, const pf_options& options);
    // One that a listener has accepted: every lane established, events of its ids on its own channel.
    static Outcome<std::unique_ptr<Connection>> accepted(Lanes lanes, const pf_options& options);
    ~Connection(); // closes
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    Outcome<void> connect(const Deadline& deadline, pf_progress progress, void* context);
    void cancel();
    [[nodiscard]] std::string describe() const;

    Outcome<void> add_memory(std::span<const pf_memory_block> blocks);
    Outcome<void> prepare(std::span<const pf_extent> extents);
    Outcome<void> memory_replaced();
    Outcome<void> revoke_memory(const Deadline& deadline);

    Outcome<void> send(std::span<const std::byte> message, const Deadline& deadline);
    Outcome<std::size_t> receive(std::span<std::byte> buffer, const Deadline& deadline); // 0: none in time

    Outcome<std::size_t> submit(OpKind kind, std::span<const pf_extent> extents);              // 0: queue full
    Outcome<std::size_t> poll(std::span<pf_completion> completions, const Deadline& deadline); // 0: none in time
    Outcome<void> fence(const Deadline& deadline);
    void counters(pf_counters& counters) const;

private:
    enum class State { idle, connecting, running };

    Connection(pf_options options, Fd event);
    Outcome<void> start(Lanes lanes);
    [[nodiscard]] Outcome<void> usable(const char* operation) const;
    // The table, or why there is none to be used.
    [[nodiscard]] Outcome<const MemoryTable*> memory(const char* operation) const;

    const pf_options options_;
    std::optional<transport::Uri> uri_;
    Ending ending_;
    std::mutex mutex_; // for add_memory(), and for a cancel() while connect() is under way
    std::atomic<State> state_{State::idle};
    std::string name_; // for describe(): set before running
    std::unique_ptr<const MemoryTable> table_;
    std::atomic<const MemoryTable*> shown_{nullptr};
    std::atomic<std::uint64_t> control_bytes_{0};

    // Made in start(). The device's objects go last, then the lanes' users in the order below.
    Lanes lanes_;
    std::unique_ptr<ControlLane> control_;
    std::unique_ptr<Service> service_;
    std::unique_ptr<DataLanes> data_;
};

} // namespace pageferry::rdma
