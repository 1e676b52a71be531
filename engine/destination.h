// The destination of a migration: takes the RAM, holds the guest until the permit, and runs it.
//
//   accept, by whichever transport → hello and RAM tables → memory → discard what the source has not → pushes land by themselves
//   → device state is loaded, held back from the switchover on until RAM is final → loaded → permit → run
//
// In a postcopy RAM is not final at the switchover: from there on nothing is pushed any more, and what is missing is pulled from
// here, page faults first (engine/postcopy/); device state is loaded, and the guest runs, while that goes on.
//
// When the connection breaks after the source may have sent its permit, the destination goes on listening, for the same session
// alone, until the source has come again and has said goodbye (engine/recovery.h is its half). It runs the guest once, however
// often it is permitted to.
//
// A peer that is turned away before the RAM tables agree changes nothing: the destination goes on listening. So it does where one
// of several transports cannot have this guest's memory: the source then comes by another.
// Threads: listen() and run() on the engine's thread; the rest by any thread.
#pragma once

#include "engine/candidates.h"
#include "engine/control_page.h"
#include "engine/device_relay.h"
#include "engine/guest.h"
#include "engine/postcopy/page_receiver.h"
#include "engine/reception.h"
#include "memory/extent.h"
#include "memory/ram_block.h"
#include "statemachine/machine.h"
#include "transport/session/messages.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::engine {

// What an earlier destination of this guest, in a process that died, had come to: device state is loaded, and the source may have
// sent its permit.
struct Unsettled {
    transport::SessionId session{};
    std::uint32_t epoch = 0; // of its last connection
    bool ran = false;        // the guest runs here
    bool postcopy = false;   // pages may be missing: PostcopyMeans says which
};

struct DestinationConfig {
    std::vector<memory::RamBlock> blocks;
    ReceptionConfig reception;
    ControlPage* page = nullptr;           // outlives the destination
    std::optional<PostcopyMeans> postcopy; // the migration may become a postcopy
    std::optional<Unsettled> unsettled;
    // Told of the session once a source is accepted, so that a later process can settle it.
    std::function<void(const transport::SessionId&, std::uint32_t epoch)> accepted = [](const transport::SessionId&,
                                                                                        std::uint32_t) {};
};

class Destination {
public:
    Destination(DestinationConfig config, DestinationGuest& guest, statemachine::Machine& machine);
    ~Destination();
    Destination(const Destination&) = delete;
    Destination& operator=(const Destination&) = delete;

    // As Reception's.
    Result<std::vector<std::string>> listen() { return reception_.listen(); }
    Result<std::vector<std::string>> listen_also(std::vector<Candidate> candidates) {
        return reception_.listen_also(std::move(candidates));
    }
    [[nodiscard]] const std::vector<Attempt>& attempts() const { return reception_.attempts(); }
    // Waits for a source and takes its guest, to the source's goodbye. At the end the machine is `completed` or `failed`, after
    // cancel() also `postcopy-paused`.
    Result<void> run();
    void cancel();
    // migrate-pause: the connection ends, and a postcopy waits for its recovery.
    void pause();

private:
    enum class Peer { stranger, source };

    Result<void> serve();
    Result<Peer> greet(const transport::session::Hello& hello);
    Result<std::vector<std::size_t>> agree_on_ram();
    Result<Peer> greet_again(const transport::session::Hello& hello);
    Result<Peer> turn_away(Error error);
    // The source's next message; timed_out where none came. What wakes the inbox meanwhile is no answer.
    Result<transport::session::Message> answer(std::string_view wanted, std::chrono::milliseconds timeout);
    Result<void> settle();
    void lost(const Error& error);
    Result<void> share_memory(const std::vector<std::size_t>& order);
    Result<void> send_extents();
    Result<void> discard(const transport::session::Discard& message);
    Result<void> receive_guest();
    Result<void> device_state(std::vector<std::byte> bytes);
    // How fast it may pull, what it has.
    static bool about_pulls(const transport::session::Message& message);
    Result<void> note(const transport::session::Message& about_pulls);
    Result<void> delivered(const transport::session::Delivered& message);
    Result<void> start_pulling();
    void pull();
    Result<void> load(const transport::session::RamFinal& final);
    Result<void> run_guest(bool running);
    Result<void> pull_the_rest();
    Result<void> look_at_the_door();
    Result<void> say_progress();
    Result<void> finish(const transport::session::Message& last_word);
    void fail(const Error& error);

    DestinationConfig config_;
    DestinationGuest& guest_;
    statemachine::Machine& machine_;
    Progress& progress_;
    std::chrono::milliseconds dead_peer_;
    Reception reception_;
    std::unique_ptr<DeviceRelay> relay_;
    std::vector<memory::RamBlock*> blocks_; // by the source's numbers
    std::vector<std::uint32_t> numbers_;    // the source's, by block
    std::unique_ptr<PageReceiver> receiver_;
    transport::SessionId session_{}; // of the source that was accepted
    std::uint32_t epoch_ = 0;
    std::atomic<bool> run_asked_{false};
    std::atomic<bool> paused_{false}; // by the user
    bool ran_ = false;
    bool settled_ = false;       // the source knows that the guest runs here, and nothing of it is needed any more
    bool memory_shared_ = false; // with the present connection, which may push into it
    bool switchover_ = false;
    bool postcopy_ = false;    // from RamFinal on
    bool loaded_ = false;      // from DeviceLoaded on the source may have sent its permit
    bool deaf_ = false;        // nobody can come any more
    bool run_refused_ = false; // the permit came, and the hypervisor did not run the guest
};

} // namespace pageferry::engine
