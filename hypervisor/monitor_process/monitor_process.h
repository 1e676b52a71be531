// The process beside QEMU that lives as long as QEMU: serves the user's monitors, and owns the guest's migrations.
//
// Threads: one. It ends when QEMU has ended, and at no other time.
#pragma once

#include "base/error.h"
#include "hypervisor/monitor_process/migration.h"
#include "hypervisor/qemu/monitor_config.h"
#include "monitor/migration_commands.h"
#include "monitor/qmp_server.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include <memory>
#include <string>
#include <vector>

namespace pageferry::hypervisor {

class MonitorProcess {
public:
    explicit MonitorProcess(MonitorConfig config);
    ~MonitorProcess(); // removes the monitors' socket files
    MonitorProcess(const MonitorProcess&) = delete;
    MonitorProcess& operator=(const MonitorProcess&) = delete;

    // QEMU may start after this. Its monitors are served; with -incoming URI only once it listens there.
    Result<void> start();
    // Until QEMU has ended.
    void run();

private:
    Result<void> use_settings();
    Result<void> serve(UserMonitor& user);
    Result<void> serve_all();
    [[nodiscard]] bool listens_first() const;
    void begin_incoming();
    void up();
    void tell_launcher(char byte);
    void wait_for_qemus_end();
    void qemu_ended();
    void end_if_served();
    void remove_socket_files();

    // Of a monitor of the user's, as the launcher made it.
    struct SocketFile {
        std::string path;
        std::string identity;
    };

    MonitorConfig config_;
    boost::asio::io_context io_{1};
    monitor::Capabilities capabilities_;
    monitor::Parameters parameters_;
    monitor::EventSink sink_{capabilities_};
    std::unique_ptr<monitor::QmpBackend> qmp_;
    std::unique_ptr<Migration> migration_;
    std::unique_ptr<monitor::MigrationCommands> commands_;
    std::vector<std::unique_ptr<monitor::QmpServer>> servers_;
    std::vector<SocketFile> socket_files_;            // to be removed at the end
    boost::asio::posix::stream_descriptor qemu_{io_}; // pidfd
    boost::asio::steady_timer last_words_{io_};
    std::size_t open_servers_ = 0;
    bool qemu_gone_ = false;
    Fd ready_;
};

} // namespace pageferry::hypervisor
