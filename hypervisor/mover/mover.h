// One migration in one process: the engine on a thread of its own, and the main thread between it and the monitor process.
//
// Threads: made, run and unmade by the main thread.
#pragma once

#include "engine/candidates.h"
#include "engine/control_page.h"
#include "engine/destination.h"
#include "engine/recovery.h"
#include "engine/source.h"
#include "hypervisor/link/link.h"
#include "hypervisor/link/messages.h"
#include "hypervisor/mover/discards.h"
#include "hypervisor/mover/monitor_port.h"
#include "hypervisor/mover/start_handles.h"
#include "statemachine/machine.h"

#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace pageferry::hypervisor {

class Mover {
public:
    explicit Mover(Link link) : link_(std::move(link)), port_(link_, [this] { return report_states(); }) {}
    ~Mover();
    Mover(const Mover&) = delete;
    Mover& operator=(const Mover&) = delete;

    // From the start message to the end of the migration; what was reported to the monitor process is the result.
    Result<void> run();

private:
    Result<void> prepare();
    Result<void> load_transports();
    [[nodiscard]] std::vector<engine::Candidate> candidates_of(const std::vector<std::string>& uris) const;
    Result<void> prepare_source(memory::TrackingHandles handles, std::vector<memory::RamBlock> blocks);
    Result<void> prepare_destination(StartHandles handles, std::vector<memory::RamBlock> blocks);
    Result<std::vector<memory::RamBlock>> map_blocks(std::span<Fd> files);
    Result<void> map_control_page(const Fd& memory);
    Result<void> prepare_recovery(std::vector<memory::RamBlock> blocks);
    [[nodiscard]] engine::PeerConfig peer_of();
    void report_transport(const engine::TransportUse& use);
    void start_engine();
    Result<void> run_engine();
    Result<void> serve();
    Result<void> take_message();
    Result<void> report_states();
    void cancel_engine();
    void pause_engine();
    void listen_also(const LinkMessage& message);

    Link link_;
    MonitorPort port_;
    engine::ControlPage* page_ = nullptr;
    MappedDiscards discards_; // empty: not counted
    statemachine::EventQueue events_;
    std::mutex report_mutex_; // one takes events at a time, and sends them before another takes the next
    std::optional<statemachine::Machine> machine_;
    std::unique_ptr<engine::Source> source_;
    std::unique_ptr<engine::Recovery> recovery_; // instead of source_
    std::unique_ptr<engine::Destination> destination_;
    MoverStart start_;
    std::vector<engine::Candidate> candidates_;
    std::size_t attempts_logged_ = 0; // of report_transport()
    Fd done_;                         // eventfd: the engine's thread has ended
    std::thread engine_;
};

} // namespace pageferry::hypervisor
