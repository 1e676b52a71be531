// The transport's own conversation with the peer, and everything that happens by itself: one thread of a connection that
// registers memory and asks the peer for it, answers the peer's fences, hears the connection manager and the device, and finds a
// peer that has fallen silent. It sleeps in poll(2) and wakes at least four times in the
// time in which a dead peer is to be found.
//
// Threads: its own ("rdma-service"); the functions by any.
#pragma once

#include "base/fd.h"
#include "rdma/control_lane.h"
#include "rdma/data_lanes.h"
#include "rdma/device_events.h"
#include "rdma/kit.h"
#include "rdma/lane_set.h"
#include "rdma/registrar.h"
#include "rdma/service_message.h"
#include "transport/plugin/ending.h"
#include "transport/plugin/memory_table.h"
#include "transport/plugin/threads.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace pageferry::rdma {

class Service {
public:
    // end: ends the connection with a fault.
    Service(LaneSet& set, const Ending& ending, std::chrono::milliseconds dead_peer, Fd kick, std::function<void(Fault)> end);
    ~Service(); // stops the thread; memory the peer can reach is deregistered
    Service(const Service&) = delete;
    Service& operator=(const Service&) = delete;

    // data outlives the thread.
    Result<void> start(DataLanes& data);
    void stop();

    void set_memory(const MemoryTable& table);
    // Those that were asked for here before are wanted sooner.
    void want(std::span<const Region> regions, Urgency urgency);
    // Regions registered so far may hold pages that are no longer the memory's: as the ABI says.
    Outcome<void> memory_replaced();
    // After it the peer can write and read nothing here any more. What this side registers for its own pushes and pulls, which
    // carries no remote right, stays and goes on.
    void revoke();
    // What ends the connection. A consequence of another error waits a moment for that one to show.
    void fail(Fault fault, bool consequence);

private:
    struct Wanted { // a registration
        std::byte* address = nullptr;
        std::uint64_t length = 0; // bytes
        int access = 0;           // IBV_ACCESS_*
        std::uint32_t number = 0; // of the side that asked
        bool for_peer = false;
    };
    struct Finished {
        Wanted wanted;
        std::uint64_t round = 0; // of the registrar
        Result<MemoryRegion> region;
    };
    using Moment = Clock::time_point;
    static constexpr std::chrono::milliseconds patience_for_a_cause{200};

    void run();
    [[nodiscard]] int milliseconds_to_wait() const;
    void take_work();
    void begin(const Region& region, Urgency urgency);
    void hurry(const Region& region);
    bool register_local(const Region& region, Urgency urgency);
    void finish(Finished& finished);
    void finish_for_peer(Finished& finished);
    void ask();
    void tick();
    void watch_for_silence();

    // the service lane
    void drain();
    void handle(const ibv_wc& completion);
    void message(const ServiceMessage& message);
    void answer(const ServiceMessage& asked);
    void fence_arrived(std::uint32_t immediate);
    void send(const ServiceMessage& message);
    void flush();
    void post(ibv_send_wr& request);

    // what happens by itself
    void connection_manager();
    void device_event(const ibv_async_event& event);
    void end_now(Fault fault);
    void kick() const;
    Result<void> register_memory(const Wanted& wanted, Urgency urgency);

    LaneSet& set_;
    Lane& lane_;
    const Ending& ending_;
    const std::chrono::milliseconds dead_peer_;
    const Fd kick_;
    const std::function<void(Fault)> end_;
    DataLanes* data_ = nullptr;
    std::shared_ptr<DeviceEvents> device_;
    std::thread thread_;
    std::atomic<bool> stop_{false};

    std::mutex mutex_; // for what others bring
    const MemoryTable* table_ = nullptr;
    std::vector<std::pair<Region, Urgency>> wanted_;
    std::vector<Finished> finished_;
    std::vector<MemoryRegion> for_peer_; // that the peer can reach
    bool revoked_ = false;
    std::optional<Fault> consequence_; // ends the connection when its time has come
    Moment consequence_at_;
    std::optional<std::string> port_down_; // the event that said so
    std::vector<std::string> notes_;       // events worth telling when the connection ends

    // the thread's own
    std::array<std::deque<Region>, 3> to_ask_; // by urgency
    std::size_t asked_ = 0;                    // unanswered
    Moment answered_at_ = Clock::now();
    std::deque<ServiceMessage> held_; // asked before there was memory
    std::deque<ServiceMessage> outgoing_;
    std::uint32_t in_flight_ = 0;
    std::uint32_t next_slot_ = 0;
    std::map<std::uint32_t, std::uint32_t> fences_; // number: lanes still to come
    Moment moved_ = Clock::now();                   // the service lane's last completion, or the start of what is under way

    Registrar registrar_; // last: its threads use all of this
};

} // namespace pageferry::rdma
