// One connection, on either side: what pf_connection is. Before connect() only options; then control, bulk and urgent lanes, two
// threads for each data lane ("tcp-tx-0", "tcp-rx-0", ...) and one that writes control messages the socket had no room for
// ("tcp-tx-c").
//
// Threads, times and errors: as transport/abi/pageferry_transport.h says.
#pragma once

#include "tcp_fallback/control_lane.h"
#include "tcp_fallback/kit.h"
#include "tcp_fallback/lane.h"
#include "tcp_fallback/lane_groups.h"
#include "tcp_fallback/lane_receiver.h"
#include "tcp_fallback/lane_sender.h"
#include "tcp_fallback/memory_gate.h"
#include "tcp_fallback/work.h"
#include "transport/plugin/ending.h"
#include "transport/plugin/op_kind.h"
#include "transport/uri.h"

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace pageferry::tcp {

class Connection {
public:
    // A connection still to be made. invalid_argument: not a URI of ours.
    static Result<std::unique_ptr<Connection>> open(const std::string& uri, const pf_options& options);
    // One that a listener has accepted.
    static Outcome<std::unique_ptr<Connection>> accepted(LaneSet lanes, const pf_options& options);
    ~Connection(); // closes
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    Outcome<void> connect(const Deadline& deadline, pf_progress progress, void* context);
    void cancel();
    [[nodiscard]] std::string describe() const;

    Outcome<void> add_memory(std::span<const pf_memory_block> blocks);
    Outcome<void> prepare(std::span<const pf_extent> extents); // nothing to do here but to look at them
    Outcome<void> memory_replaced();                           // nor here: pages are read through the mapping
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
    Outcome<void> start(LaneSet lanes);
    void add_lane(Fd socket, std::string title, bool urgent);
    // The first error ends the connection.
    void end(Fault fault);
    // Shuts the sockets (control as given, SHUT_*) and sends everyone who waits home. Again does no harm.
    void take_apart(int how_control);
    // Whether a call may go on: connected, and not over.
    [[nodiscard]] Outcome<void> usable(const char* operation) const;

    const pf_options options_;
    std::optional<transport::Uri> uri_;
    Ending ending_;
    std::mutex mutex_; // for a cancel() while connect() is under way
    std::atomic<State> state_{State::idle};
    std::string name_; // for describe(): set before running

    // All below: made in start(), then left as they are until the end.
    std::vector<Fd> sockets_; // control, bulk, urgent
    std::deque<Lane> lanes_;  // the same; addresses stay
    std::unique_ptr<Work> work_;
    MemoryGate gate_;
    std::unique_ptr<ControlLane> control_;
    std::deque<LaneSender> senders_;
    std::deque<LaneReceiver> receivers_;
    std::vector<std::thread> threads_;
    std::atomic<std::uint64_t> control_bytes_{0};
    std::atomic<std::uint64_t> wire_bytes_{0};
};

} // namespace pageferry::tcp
