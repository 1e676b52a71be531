#include "hypervisor/monitor_process/monitor_process.h"

#include "monitor/event_loop.h"
#include "monitor/passed_sockets.h"

#include <spdlog/spdlog.h>

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <utility>

namespace pageferry::hypervisor {

namespace {

// A client that does not read holds nobody up for longer.
constexpr std::chrono::milliseconds last_words_limit{500};

void log_line(const std::string& line) {
    spdlog::info("{}", line);
}

// The mover lies beside this program.
std::string mover_program() {
    std::error_code error;
    const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
    return (self.parent_path() / "pageferry-mover").string();
}

// Which file that is: its number is another one's soon after its end, but not its time.
std::string file_at(const std::string& path) {
    struct stat about{};
    if (::lstat(path.c_str(), &about) != 0) {
        return {};
    }
    return std::to_string(about.st_dev) + ":" + std::to_string(about.st_ino) + ":" + std::to_string(about.st_mtim.tv_sec) + "." +
           std::to_string(about.st_mtim.tv_nsec);
}

} // namespace

MonitorProcess::MonitorProcess(MonitorConfig config) : config_(std::move(config)), ready_(config_.ready_fd) {
    for (const auto& user : config_.user_monitors) {
        if (!user.unlink_path.empty()) {
            socket_files_.push_back(SocketFile{.path = user.unlink_path, .identity = file_at(user.unlink_path)});
        }
    }
}

MonitorProcess::~MonitorProcess() {
    remove_socket_files();
    servers_.clear();
}

// QEMU has ended already: whoever saw that may have started the next one, with a monitor at the same path.
void MonitorProcess::remove_socket_files() {
    for (const auto& file : std::exchange(socket_files_, {})) {
        if (!file.identity.empty() && file_at(file.path) == file.identity) {
            ::unlink(file.path.c_str());
        }
    }
}

void MonitorProcess::tell_launcher(char byte) {
    // Only a launcher that daemonizes still listens after the first byte.
    [[maybe_unused]] const auto written = ::write(ready_.get(), &byte, 1);
}

void MonitorProcess::wait_for_qemus_end() {
    qemu_.async_wait(boost::asio::posix::stream_descriptor::wait_read, [this](const boost::system::error_code& error) {
        if (error) {
            return;
        }
        if (monitor::is_ready(qemu_.native_handle(), POLLIN)) {
            qemu_ended();
        } else {
            wait_for_qemus_end(); // it lives: see is_ready()
        }
    });
}

// The parameters' first values, from the launcher's settings file.
Result<void> MonitorProcess::use_settings() {
    if (config_.parameters.empty()) {
        return {};
    }
    const auto values = nlohmann::json::parse(config_.parameters, nullptr, false);
    if (!values.is_object()) {
        return std::unexpected(make_error(ErrorCode::protocol, "read", "parameters", "they are no JSON object"));
    }
    if (auto set = parameters_.set(values); !set) {
        return std::unexpected(make_error(ErrorCode::invalid_argument, "use \"parameters\"", "of " + config_.settings_file,
                                          set.error().reason, "correct the settings file"));
    }
    return {};
}

Result<void> MonitorProcess::start() {
    PAGEFERRY_TRY(use_settings());
    qemu_.assign(config_.qemu_pidfd);
    wait_for_qemus_end();
    auto backend = monitor::QmpBackend::open(io_, Fd{config_.qmp_fd});
    if (!backend) {
        return std::unexpected(std::move(backend.error()));
    }
    qmp_ = std::move(*backend);
    migration_ = std::make_unique<Migration>(io_, config_, mover_program(), Fd{config_.agent_fd}, *qmp_, capabilities_,
                                             parameters_, sink_, log_line);
    commands_ = std::make_unique<monitor::MigrationCommands>(*migration_, capabilities_, parameters_);
    if (!listens_first()) {
        PAGEFERRY_TRY(serve_all());
    }
    qmp_->start({.ready =
                     [this] {
                         // Answered once QEMU's main loop runs, so once its start has succeeded.
                         qmp_->execute("query-status", nlohmann::json::object(),
                                       [this](const Result<nlohmann::json>&) { listens_first() ? begin_incoming() : up(); });
                     },
                 .event = [this](const std::string& name, const nlohmann::json& event,
                                 std::string_view) { migration_->qemu_event(name, event); },
                 .reply = {},
                 .closed = [] {}}); // the pidfd tells
    tell_launcher(ready_byte);
    return {};
}

// -incoming with a URI of ours: QEMU was started with `defer`. As with QEMU itself, whoever is answered by a monitor, or by the
// end of -daemonize's parent, knows that the migration may come.
bool MonitorProcess::listens_first() const {
    return config_.incoming_given && !config_.incoming_native && config_.incoming != "defer";
}

void MonitorProcess::up() {
    tell_launcher(up_byte);
    ready_.reset();
}

void MonitorProcess::begin_incoming() {
    const auto give_up = [this](const std::string& why) {
        // QEMU itself would not have started.
        spdlog::error("-incoming {}: {}", config_.incoming, why);
        qmp_->execute("quit", nlohmann::json::object(), [](const Result<nlohmann::json>&) {});
    };
    const auto go_on = [this, give_up] {
        if (const auto served = serve_all(); !served) {
            return give_up(served.error().to_string());
        }
        up();
    };
    const nlohmann::json arguments{{"uri", config_.incoming}};
    monitor::PassedSockets none;
    commands_->handle(
        "migrate-incoming", arguments,
        [give_up, go_on](const monitor::QmpResult& result) { result ? go_on() : give_up(result.error().desc); },
        [this, give_up, go_on, arguments](bool) { // x-pageferry-carrier: QEMU's own business
            qmp_->execute("migrate-incoming", arguments, [this, give_up, go_on](const Result<nlohmann::json>& done) {
                if (!done) {
                    commands_->native_refused();
                    return give_up(done.error().reason);
                }
                go_on();
            });
        },
        none);
}

Result<void> MonitorProcess::serve_all() {
    for (auto& user : config_.user_monitors) {
        PAGEFERRY_TRY(serve(user));
    }
    return {};
}

Result<void> MonitorProcess::serve(UserMonitor& user) {
    auto backend = monitor::QmpBackend::open(io_, Fd{std::exchange(user.backend_fd, -1)});
    if (!backend) {
        return std::unexpected(std::move(backend.error()));
    }
    monitor::Endpoint endpoint{
        .kind = monitor::Endpoint::Kind::listening, .in = {}, .out = {}, .name = user.address, .pretty = user.pretty};
    if (user.connected_fd >= 0) {
        endpoint.kind = monitor::Endpoint::Kind::connected;
        endpoint.in = Fd{std::exchange(user.connected_fd, -1)};
    } else if (user.listen_fd >= 0) {
        endpoint.in = Fd{std::exchange(user.listen_fd, -1)};
        for (const int number : std::exchange(user.more_listen_fds, {})) {
            endpoint.more.emplace_back(number);
        }
    } else {
        endpoint.kind = monitor::Endpoint::Kind::pair;
        endpoint.in = Fd{std::exchange(user.input_fd, -1)};
        endpoint.out = Fd{std::exchange(user.output_fd, -1)};
    }
    auto server = monitor::QmpServer::open(io_, std::move(endpoint), std::move(*backend), *commands_, sink_, log_line);
    if (!server) {
        return std::unexpected(std::move(server.error()));
    }
    (*server)->on_closed([this] {
        --open_servers_;
        end_if_served();
    });
    ++open_servers_;
    servers_.push_back(std::move(*server));
    return {};
}

void MonitorProcess::run() {
    // A handler that throws (out of memory, a defect) ends its own event, not this process: QEMU's owner takes our end for the
    // guest's.
    for (;;) {
        try {
            io_.run();
            return;
        } catch (const std::exception& error) {
            spdlog::error("an event could not be handled: {}", error.what());
        }
    }
}

// Each server shows its client what QEMU said last, then closes; QEMU's end is in their sockets already.
void MonitorProcess::qemu_ended() {
    remove_socket_files();
    spdlog::info("QEMU has ended");
    qemu_gone_ = true;
    last_words_.expires_after(last_words_limit);
    last_words_.async_wait([this](const boost::system::error_code& error) {
        if (!error) {
            io_.stop();
        }
    });
    end_if_served();
}

void MonitorProcess::end_if_served() {
    if (qemu_gone_ && open_servers_ == 0) {
        io_.stop();
    }
}

} // namespace pageferry::hypervisor
