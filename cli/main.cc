// The pageferry command: reads the command line and calls the subcommand.
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/probe.h"

#ifdef PAGEFERRY_HAVE_QEMU
#include "hypervisor/qemu/launcher.h"
#endif

#include <CLI/CLI.hpp>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace pageferry;
using namespace pageferry::cli;

constexpr const char* examples = R"(Examples:
  # destination host: a guest that waits for its migration
  pageferry qemu -- qemu-system-x86_64 -m 4G -drive file=disk.qcow2 -qmp unix:/run/vm.qmp,server=on,wait=off -incoming tcp:0:4444
  # source host
  pageferry qemu -- qemu-system-x86_64 -m 4G -drive file=disk.qcow2 -qmp unix:/run/vm.qmp,server=on,wait=off
  pageferry migrate --qmp /run/vm.qmp tcp:dst.example:4444
  # another window, or a script
  pageferry status --qmp /run/vm.qmp --json
  pageferry cancel --qmp /run/vm.qmp
  # a guest that writes faster than the network: postcopy, and what to do when its connection is lost
  pageferry migrate --qmp /run/vm.qmp --postcopy=auto tcp:dst.example:4444
  pageferry recover --qmp /run/vm.qmp tcp:dst.example:4444
  # what this host can do, and whether the other one can be reached
  pageferry probe
  pageferry probe rdma:dst.example:4444

Every subcommand has its own --help. Environment: PAGEFERRY_TRANSPORT_PATH, directories with transport plugins.
)";

constexpr const char* probe_examples = R"(Examples:
  pageferry probe                                     # this host: kernel, limits, QEMU, transports, RDMA devices
  pageferry probe rdma:dst.example:4444               # the connection, phase by phase; a destination that waits is not disturbed
  pageferry probe --listen rdma:0:4444                # on the other host, before there is any guest
  pageferry probe --json tcp:dst.example:4444 | jq .push
)";

void add_probe_options(CLI::App& command, ProbeOptions& options) {
    CLI::Option* uri =
        command.add_option("URI", options.uri, "The connection to try: tcp:HOST:PORT, rdma:HOST:PORT or unix:PATH")
            ->type_name("");
    command.add_flag("--json", options.json, "JSON, one object a line");
    CLI::Option* listen =
        command.add_flag("--listen", options.listen, "Waits at URI for probes from other hosts and answers them, until Ctrl-C")
            ->needs(uri);
    command.add_option("--count", options.count, "Ends after so many answered probes")
        ->needs(listen)
        ->check(CLI::Range(1U, 1'000'000U))
        ->type_name("N");
    command.add_option("--lanes", options.lanes, "Connections that carry pages side by side (default 2)")
        ->needs(uri)
        ->check(CLI::Range(1U, 64U))
        ->type_name("N");
    command
        .add_option_function<double>(
            "--timeout",
            [&options](const double& seconds) {
                options.timeout = std::chrono::milliseconds{static_cast<long long>(seconds * 1000)};
            },
            "Longest time to connect, and to wait for each answer, seconds (default 10)")
        ->needs(uri)
        ->check(CLI::Range(0.001, 86'400.0))
        ->type_name("S");
    command.footer(
        std::string{probe_examples} +
        "\nExit code 0: told, and with a URI the connection works; 1: it does not; 2: the command line or the URI is wrong.\n");
}

int run(int argc, char** argv) {
    CLI::App app{"Live migration over RDMA, with a TCP fallback, for the QEMU people already run.", "pageferry"};
    app.set_version_flag("--version", "pageferry " PAGEFERRY_VERSION);
    app.require_subcommand(1);
    app.footer(std::string{examples} + "\n" + exit_codes_help());
    ExitCode code = exit_ok;

#ifdef PAGEFERRY_HAVE_QEMU
    CLI::App* qemu =
        app.add_subcommand("qemu", "Runs a QEMU whose migrations Pageferry carries out: a drop-in for the QEMU binary");
    qemu->footer(
        "Everything behind -- is QEMU's own command line, its monitors included.\n"
        "Example:\n  pageferry qemu -- qemu-system-x86_64 -m 4G -qmp unix:/run/vm.qmp,server=on,wait=off -incoming defer\n");
#endif

    MigrateOptions migrate_options;
    CLI::App* migrate = app.add_subcommand("migrate", "Starts a migration and follows it to its end");
    add_migrate_options(*migrate, migrate_options);
    migrate->callback([&] { code = run_migrate(migrate_options); });

    MonitorOptions watch_options;
    CLI::App* watch =
        app.add_subcommand("watch", "Follows the migration that is under way, or the next one; Ctrl-C leaves it alone");
    add_monitor_options(*watch, watch_options, true);
    watch->footer("Example:\n  pageferry watch --qmp /run/vm.qmp\n\n" + exit_codes_help());
    watch->callback([&] { code = run_watch(watch_options); });

    MonitorOptions status_options;
    CLI::App* status = app.add_subcommand("status", "Prints how the migration stands, and ends");
    add_monitor_options(*status, status_options, false);
    status->footer("Example:\n  pageferry status --qmp /run/vm.qmp --json | jq .percent\n\n" + exit_codes_help());
    status->callback([&] { code = run_status(status_options); });

    MonitorOptions cancel_options;
    CLI::App* cancel = app.add_subcommand("cancel", "Cancels the migration that is under way and waits until that is done");
    add_monitor_options(*cancel, cancel_options, true);
    cancel->footer("Exit code 0 when nothing is under way any more, 1 when the migration had completed before.\n\nExample:\n  "
                   "pageferry cancel --qmp "
                   "/run/vm.qmp\n\n" +
                   exit_codes_help());
    cancel->callback([&] { code = run_cancel(cancel_options); });

    MonitorOptions postcopy_options;
    CLI::App* postcopy = app.add_subcommand(
        "postcopy", "Lets the migration that is under way go on as postcopy (migrate-start-postcopy), and ends");
    add_monitor_options(*postcopy, postcopy_options, false);
    postcopy->footer("The capability postcopy-ram has to be on, on both sides, since before the migration began.\n\nExample:\n  "
                     "pageferry postcopy --qmp /run/vm.qmp\n\n" +
                     exit_codes_help());
    postcopy->callback([&] { code = run_postcopy(postcopy_options); });

    MonitorOptions pause_options;
    CLI::App* pause = app.add_subcommand(
        "pause", "Ends the connection of a postcopy, or an attempt to recover it, and waits until it is postcopy-paused");
    add_monitor_options(*pause, pause_options, true);
    pause->footer(
        "Exit code 0 when it is paused, 1 when the migration had completed before.\n\nExample:\n  pageferry pause --qmp "
        "/run/vm.qmp\n\n" +
        exit_codes_help());
    pause->callback([&] { code = run_pause(pause_options); });

    RecoverOptions recover_options;
    CLI::App* recover =
        app.add_subcommand("recover", "Connects a paused postcopy again, on the same or another URI, and follows it to its end");
    add_recover_options(*recover, recover_options);
    recover->callback([&] { code = run_recover(recover_options); });

    ProbeOptions probe_options;
    CLI::App* probe =
        app.add_subcommand("probe", "Tells what this host can do, and whether a connection comes up: when RDMA does not work");
    add_probe_options(*probe, probe_options);
    probe->callback([&] { code = run_probe(probe_options); });

#ifdef PAGEFERRY_HAVE_QEMU
    // QEMU's options look like ours (-m, --version), so its command line is taken away before ours is read.
    if (argc > 2 && std::string_view{argv[1]} == "qemu" && std::string_view{argv[2]} != "--help" &&
        std::string_view{argv[2]} != "-h") {
        const int first = std::string_view{argv[2]} == "--" ? 3 : 2;
        std::vector<std::string> qemu_arguments{argv + first, argv + argc};
        if (!qemu_arguments.empty()) {
            return pageferry::hypervisor::run_qemu(std::move(qemu_arguments));
        }
    }
    qemu->callback([&code] {
        std::fputs("pageferry qemu: QEMU's command line is missing; write: pageferry qemu -- qemu-system-x86_64 ...\n", stderr);
        code = exit_usage;
    });
#endif

    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? exit_ok : exit_usage;
    }
    return code;
}

} // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::exception& error) { // CLI11 and the containers may throw; nothing of ours does
        std::fprintf(stderr, "pageferry: %s\n", error.what());
        return exit_failed;
    }
}
