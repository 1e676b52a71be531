// The migrations of one QEMU: the authority on their state, between the user's commands, QEMU, and the mover.
//
// The state machine here is the one users see. A mover's word moves it only where the table allows, `completed` only after this
// side has committed (source) or run the guest (destination). A mover that dies is a failed migration before that point, and
// `postcopy-paused` after it. On the source, failing and cancelling last until the guest is as it was. Threads: the monitor
// process's one thread.
#pragma once

#include "engine/control_page.h"
#include "hypervisor/link/transport_report.h"
#include "hypervisor/monitor_process/auto_recovery.h"
#include "hypervisor/monitor_process/holdings.h"
#include "hypervisor/monitor_process/mover_process.h"
#include "hypervisor/monitor_process/qemu_driver.h"
#include "hypervisor/monitor_process/state_history.h"
#include "hypervisor/qemu/agent_client.h"
#include "hypervisor/qemu/monitor_config.h"
#include "monitor/capabilities.h"
#include "monitor/migration_service.h"
#include "monitor/parameters.h"
#include "monitor/qmp_server.h"
#include "statemachine/machine.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pageferry::hypervisor {

class Migration final : public monitor::MigrationService {
public:
    using Log = std::function<void(const std::string&)>;

    Migration(boost::asio::io_context& io, const MonitorConfig& config, std::string mover_program, Fd agent,
              monitor::QmpBackend& qmp, const monitor::Capabilities& capabilities, const monitor::Parameters& parameters,
              monitor::EventSink& sink, Log log);
    ~Migration() override;

    // An event of the private monitor.
    void qemu_event(const std::string& name, const nlohmann::json& event);

    // A destination until the guest is wholly this side's.
    [[nodiscard]] statemachine::Side side() const override {
        const bool pulling =
            machine_->side() == statemachine::Side::destination && postcopy_ && statemachine::is_running(status());
        return incoming_ || pulling ? statemachine::Side::destination : statemachine::Side::source;
    }
    [[nodiscard]] statemachine::Status status() const override { return machine_->status(); }
    void migrate(const monitor::MigrateRequest& request, monitor::Reply reply) override;
    void migrate_incoming(const monitor::IncomingRequest& request, monitor::Reply reply) override;
    void migrate_cancel(monitor::Reply reply) override;
    void migrate_continue(monitor::Reply reply) override;
    void migrate_pause(monitor::Reply reply) override;
    void migrate_recover(const std::vector<std::string>& uris, monitor::Reply reply) override;
    void migrate_start_postcopy(monitor::Reply reply) override;
    [[nodiscard]] Result<void> postcopy_possible() override;
    [[nodiscard]] nlohmann::json query_migrate() const override;
    Result<bool> hold_run_state(bool run) override;
    void begin_native(bool incoming, monitor::Reply reply) override;
    [[nodiscard]] bool is_native() const override { return native_; }
    void native_refused() override;
    void parameters_changed(const monitor::Parameters& parameters) override;

private:
    // Finding RAM, then a mover that is ready, then `setup` and the reply; whatever fails before that changes nothing.
    void prepare(statemachine::Side side, std::vector<std::string> uris, monitor::Reply reply);
    // A mover for a migration that is not settled: asked for by the user (source), or in a dead one's place (destination).
    void resume(std::vector<std::string> uris, monitor::Reply reply);
    void wait_for_source_again();
    Result<void> start_next_mover(statemachine::Side side, std::vector<std::string> uris);
    Result<void> spawn_mover(const MoverStart& start, const StartFds& fds);
    [[nodiscard]] MoverStart common_start(statemachine::Side side, std::vector<std::string> uris) const;
    // Postcopy: what a mover on the destination needs besides, and what is left of it at the end.
    void with_vcpu_threads(std::function<void()> done);
    Result<void> keep_means(AgentHandles& handles);
    void release_means();
    Result<void> drop_mappings();
    void mover_listens(const LinkMessage& message);
    void answer_listen(const Result<void>& result);
    [[nodiscard]] bool is_postcopy_state() const;
    void follow(statemachine::Status to, statemachine::Cause cause);
    void attempt_by_itself();
    void answer_resume_within(std::chrono::milliseconds limit);
    void answer_resume();
    void with_all_backends(std::function<void(Result<std::vector<RamBackend>>)> done);
    void make_disks_buffered(std::function<void(Result<void>)> done);
    Result<void> no_disk_became_direct();
    void leave_guest_alone();
    Result<void> start_mover(const std::vector<RamBackend>& backends);
    Result<void> new_control_page();
    void refuse(const Error& error);
    void begun();

    void mover_message(LinkMessage& message);
    void mover_ready(const LinkMessage& message);
    void mover_transport(const LinkMessage& message);
    void mover_status(const LinkMessage& message);
    void mover_request(std::uint64_t id, const LinkMessage& message);
    void mover_ended(const std::string& how);
    void end_mover_within(std::chrono::milliseconds limit);
    void answer(std::uint64_t id, const Result<void>& result, nlohmann::json details = nlohmann::json::object(),
                const Fd& fd = {});
    void answer(std::uint64_t id, const Result<Fd>& stream, nlohmann::json details);
    void tell_mover(const nlohmann::json& message);
    void end_mover();

    void run_guest(std::uint64_t id, bool running);
    void commit(std::uint64_t id);
    void qemu_ended();
    void connection_lost(const std::string& text);
    void attempt_failed(const std::string& text);
    void clean_up();
    bool move(statemachine::Status to, statemachine::Cause cause, const std::string& error = {});
    void report();
    void native_event(const std::string& status);

    boost::asio::io_context& io_;
    const MonitorConfig& config_;
    std::string mover_program_;
    AgentClient agent_;
    monitor::QmpBackend& qmp_;
    const monitor::Capabilities& capabilities_;
    const monitor::Parameters& parameters_;
    monitor::EventSink& sink_;
    Log log_;
    QemuDriver qemu_;
    statemachine::EventQueue events_;
    StateHistory history_;
    std::unique_ptr<statemachine::Machine> machine_;
    std::unique_ptr<MoverProcess> mover_;
    engine::ControlPage* page_ = nullptr;
    Fd page_memory_;
    boost::asio::steady_timer deadline_; // of the end of the mover
    Fd tracking_;                        // the userfaultfd that tracks dirty pages
    Holdings held_;

    // the attempt being prepared
    statemachine::Side next_side_ = statemachine::Side::source;
    std::vector<std::string> uris_; // those to try; on a destination those it really listens on
    bool as_asked_ = true;          // the first of them is the user's first
    monitor::Reply reply_;
    bool preparing_ = false;
    std::uint64_t preparations_ = 0; // an answer that comes when its own was given up is dropped
    bool disks_buffered_ = false;
    // the attempt under way
    std::chrono::steady_clock::time_point started_;
    std::optional<std::chrono::steady_clock::time_point> finished_;
    bool was_running_ = true;
    bool committed_ = false; // source: the permit may have been sent
    bool load_told_ = false; // destination: device state is loaded and the mover knows: the source may send its permit
    bool ran_ = false;       // destination: the guest was run here
    transport::SessionId session_{};
    std::uint32_t epoch_ = 0;       // of the latest connection
    unsigned successors_ = 0;       // movers started in a dead one's place since a source has come
    bool postcopy_on_ = false;      // the capability, at the start
    bool postcopy_ = false;         // it has become one
    std::vector<std::string> also_; // destination: listened on for a recovery, besides uris_
    monitor::Reply listen_reply_;   // of migrate-recover
    std::uint64_t listens_ = 0;
    AutoRecovery auto_recovery_;
    bool recovering_ = false;     // from postcopy-recover-setup on
    monitor::Reply resume_reply_; // held back for the outcome
    boost::asio::steady_timer resume_answer_;
    std::vector<std::string> good_uris_; // source: by which the last connection was made
    std::uint64_t mover_number_ = 0;     // of the present mover
    bool mover_said_ended_ = false;
    std::size_t candidates_ = 0; // URIs the mover was given
    TransportReport transport_;
    bool cleaning_up_ = false;
    bool exit_on_error_ = true;
    // the guest's run state on a destination
    bool incoming_;  // -incoming was given, and the guest has not become this side's
    bool autostart_; // it is to run when it may
    // a migration that QEMU carries alone
    bool native_ = false;
    bool native_incoming_ = false;
    nlohmann::json native_result_;
};

} // namespace pageferry::hypervisor
