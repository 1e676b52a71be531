// The destination of a migration: takes the RAM, holds the guest until the permit, and runs it.
//
//   accept, by whichever transport → hello and RAM tables → memory → discard what the source has not → pushes land by themselves
//   → device state is loaded, held back from the switchover on until RAM is final → loaded → permit → revoke → run
//
// When the connection breaks after the source may have sent its permit, the destination goes on listening, for the same session
// alone, until the source has come again and has said goodbye (engine/settlement.h is its half). It runs the guest once, however
// often it is permitted to.
//
// A peer that is turned away before the RAM tables agree changes nothing: the destination goes on listening. So it does where one
// of several transports cannot have this guest's memory: the source then comes by another.
// Threads: listen() and run() on the engine's thread; cancel() by any thread.
#pragma once

#include "engine/candidates.h"
#include "engine/control_page.h"
#include "engine/device_relay.h"
#include "engine/guest.h"
#include "engine/inbox.h"
#include "engine/listeners.h"
#include "memory/extent.h"
#include "memory/ram_block.h"
#include "statemachine/machine.h"
#include "transport/connection.h"
#include "transport/session/channel.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace pageferry::engine {

// What an earlier destination of this guest, in a process that died, had come to.
struct Unsettled {
    transport::SessionId session{};
    std::uint32_t epoch = 0; // of its last connection
    bool ran = false;        // the guest runs here, and the source does not know it yet
};

struct DestinationConfig {
    std::vector<memory::RamBlock> blocks;
    std::vector<Candidate> candidates; // all are listened on at once
    transport::Options options;
    ControlPage* page = nullptr;        // outlives the destination
    std::optional<Unsettled> unsettled; // no RAM is to come: only the permit
    // Told of the session once a source is accepted, so that a later process can settle it.
    std::function<void(const transport::SessionId&, std::uint32_t epoch)> accepted = [](const transport::SessionId&,
                                                                                        std::uint32_t) {};
    // Told of the transport by which the source came, and of those that could not be listened on.
    TellTransport tell = [](const TransportUse&) {};
    // Told of each peer that was turned away: for the log.
    std::function<void(const Error&)> turned_away = [](const Error&) {};
};

class Destination {
public:
    Destination(DestinationConfig config, DestinationGuest& guest, statemachine::Machine& machine);
    ~Destination();
    Destination(const Destination&) = delete;
    Destination& operator=(const Destination&) = delete;

    // Binds and listens; the URIs a source can connect to, at least one. A failure (port taken, no such address) of all of them
    // changes nothing; where only some have failed, attempts() tells why.
    Result<std::vector<std::string>> listen();
    [[nodiscard]] const std::vector<Attempt>& attempts() const { return use_.attempts; }
    // Waits for a source and takes its guest, to the source's goodbye. At the end the machine is `completed` or `failed`, after
    // cancel() also `postcopy-paused`.
    Result<void> run();
    void cancel();

private:
    enum class Peer { stranger, source };

    Result<void> serve();
    Result<Peer> accept();
    void drop_connection();
    Result<Peer> greet();
    Result<transport::session::Hello> hello();
    Result<Peer> greet_again();
    Result<void> settle();
    Result<void> wait_for_permit();
    void lost(const Error& error);
    Result<Peer> turn_away(Error error);
    Result<void> share_memory(const std::vector<std::size_t>& order);
    void tell_transport();
    Result<void> send_extents();
    Result<void> discard(const transport::session::Discard& message);
    Result<void> receive_guest();
    Result<void> device_state(std::vector<std::byte> bytes);
    Result<void> load(std::uint64_t device_state_bytes);
    Result<void> run_guest(bool running);
    Result<void> say_running();
    void fail(const Error& error);
    [[nodiscard]] Error cause(const Error& seen);

    DestinationConfig config_;
    DestinationGuest& guest_;
    statemachine::Machine& machine_;
    std::vector<std::string> uris_;       // listened on, in the listeners' order
    std::vector<std::size_t> candidates_; // which candidate each of them is
    std::size_t listener_ = 0;            // by which the present peer came
    TransportUse use_;
    std::mutex connection_mutex_; // held to exchange or cancel listeners_ and connection_
    std::optional<Listeners> listeners_;
    std::optional<transport::Connection> connection_;
    std::optional<transport::session::Channel> channel_;
    std::unique_ptr<DeviceRelay> relay_;
    std::optional<Inbox> inbox_;
    std::vector<memory::RamBlock*> blocks_; // by the source's numbers
    std::atomic<bool> cancelled_{false};
    transport::SessionId session_{}; // of the source that was accepted
    std::uint32_t epoch_ = 0;
    std::atomic<bool> run_asked_{false};
    bool ran_ = false;
    bool settled_ = false;       // the source knows that the guest runs here
    bool memory_shared_ = false; // with the present connection
    bool switchover_ = false;
    bool loaded_ = false;      // from DeviceLoaded on the source may have sent its permit
    bool run_refused_ = false; // the permit came, and the hypervisor did not run the guest
};

} // namespace pageferry::engine
