#include "cli/options.h"

#include "cli/units.h"

#include <CLI/CLI.hpp>

namespace pageferry::cli {

namespace {

constexpr const char* migrate_examples = R"(Examples:
  pageferry migrate --qmp /run/vm.qmp tcp:dst.example:4444
  pageferry migrate --qmp /run/vm.qmp --downtime-limit 50 --max-bandwidth 2G/s --lanes 4 'tcp:[2001:db8::7]:4444'
  pageferry migrate --qmp tcp:localhost:4000 --capability auto-converge=on --parameter cpu-throttle-initial=30 tcp:dst:4444
  pageferry migrate --qmp /run/vm.qmp --rdma required rdma:dst.example:4444
  pageferry migrate --qmp /run/vm.qmp rdma:10.0.0.7:4444 tcp:dst.example:4444
  pageferry migrate --qmp /run/vm.qmp --json --timeout 600 tcp:dst:4444 | jq -r .status
  pageferry migrate --qmp /run/vm.qmp --postcopy=auto --recover-attempts 5 tcp:dst.example:4444

Against plain QEMU, several lanes need --capability multifd=on on both sides.
)";

constexpr const char* recover_examples = R"(Examples:
  pageferry recover --qmp /run/vm.qmp tcp:dst.example:4444                        # on the source
  pageferry recover --qmp /run/vm.qmp rdma:10.0.0.7:4444 tcp:dst.example:4444     # the first that works
  pageferry recover --qmp /run/vm.qmp --incoming tcp:0:5555                       # on the destination, to listen elsewhere first

A destination of Pageferry goes on listening where it did; plain QEMU's has to be told to listen again before its source recovers.
)";

constexpr const char* postcopy_help = "Goes on as postcopy: at once, after so many seconds of precopy, or (auto) when a third "
                                      "round of precopy has left hardly less than "
                                      "the one before; the destination needs the capability postcopy-ram too";

// A flag without a value has "true" for one.
Result<PostcopyStart> postcopy_start(const std::string& text) {
    return parse_postcopy_start(text == "true" ? "now" : text);
}

void add_milliseconds(CLI::App& command, const char* name, const char* text, std::optional<std::uint64_t>& to) {
    command.add_option_function<std::uint64_t>(name, [&to](const std::uint64_t& ms) { to = ms; }, text)->type_name("MS");
}

void add_bandwidth(CLI::App& command, const char* name, const char* text, std::optional<std::uint64_t>& to) {
    command.add_option_function<std::string>(
               name, [&to](const std::string& size) { to = parse_size(size).value_or(0); }, text)
        ->type_name("SIZE/s")
        ->check([](const std::string& size) { return parse_size(size) ? std::string{} : parse_size(size).error().to_string(); });
}

// Those that matter from the start to the end, postcopy and recovery among it.
void add_common_settings(CLI::App& command, Settings& settings) {
    command
        .add_option(
            "--rdma", settings.rdma,
            "What RDMA is to this migration (parameter x-pageferry-rdma): with 'preferred', rdma: alone falls back to tcp: at "
            "the same host and port")
        ->type_name("POLICY")
        ->check(CLI::IsMember({"required", "preferred", "off"}));
    command.add_option("--parameter", settings.parameters, "Sets a migration parameter (repeatable)")
        ->type_name("NAME=VALUE")
        ->allow_extra_args(false)
        ->check([](const std::string& text) {
            return parse_assignment(text) ? std::string{} : parse_assignment(text).error().to_string();
        });
    add_bandwidth(command, "--max-postcopy-bandwidth",
                  "In postcopy: the same for pages that the guest does not wait for (parameter max-postcopy-bandwidth)",
                  settings.max_postcopy_bandwidth);
    command
        .add_option_function<std::uint64_t>(
            "--recover-attempts", [&settings](const std::uint64_t& attempts) { settings.recover_attempts = attempts; },
            "In postcopy: the source recovers a lost connection by itself, so often at most; 0: it does not (parameter "
            "x-pageferry-recover-attempts)")
        ->type_name("N");
    add_milliseconds(command, "--recover-backoff",
                     "Time before the first of these attempts, milliseconds; each further one waits twice as long, up to 30 s",
                     settings.recover_backoff);
    add_milliseconds(command, "--recover-time-limit", "No attempt begins later after the loss, milliseconds; 0: no limit",
                     settings.recover_time_limit);
}

} // namespace

std::string exit_codes_help() {
    std::string text = "Exit codes:\n";
    for (const auto& [code, meaning] : exit_code_texts) {
        const std::string number = std::to_string(code);
        text += "  " + std::string(number.size() < 3 ? 3 - number.size() : 0, ' ') + number + "  " + meaning + "\n";
    }
    return text;
}

void add_monitor_options(CLI::App& command, MonitorOptions& options, bool follows) {
    command.add_option("--qmp", options.address, "The guest's QMP monitor: a path, unix:PATH or tcp:HOST:PORT")
        ->required()
        ->type_name("ADDRESS");
    command.add_flag("--json", options.json, "One JSON object a line (always so when the output is no terminal)");
    command
        .add_option_function<double>(
            "--connect-timeout",
            [&options](const double& seconds) {
                options.connect_timeout = std::chrono::milliseconds{static_cast<long long>(seconds * 1000)};
            },
            "Longest wait for the monitor's greeting, seconds (default 5)")
        ->check(CLI::Range(0.001, 86'400.0))
        ->type_name("S");
    if (follows) {
        command
            .add_option_function<unsigned>(
                "--interval", [&options](const unsigned& ms) { options.interval = std::chrono::milliseconds{ms}; },
                "Time between figures, milliseconds (default 200 on a terminal, 1000 in JSON)")
            ->check(CLI::Range(20U, 3'600'000U))
            ->type_name("MS");
    }
}

void add_migrate_options(CLI::App& command, MigrateOptions& options) {
    add_monitor_options(command, options.monitor, true);
    command
        .add_option(
            "URI", options.uris,
            "Where to: tcp:HOST:PORT, rdma:HOST:PORT or unix:PATH; of several the first that works (plain QEMU takes one)")
        ->required()
        ->expected(1, 8)
        ->type_name("");
    add_common_settings(command, options.settings);
    command.add_option("--capability", options.settings.capabilities, "Switches a migration capability (repeatable)")
        ->type_name("NAME=on|off")
        ->allow_extra_args(false)
        ->check([](const std::string& text) {
            return parse_capability(text) ? std::string{} : parse_capability(text).error().to_string();
        });
    add_milliseconds(command, "--downtime-limit", "Longest time the guest may stand still, milliseconds",
                     options.settings.downtime_limit);
    add_bandwidth(command, "--max-bandwidth", "Bytes per second at most, such as 500M or 1.5G/s; 0: no limit",
                  options.settings.max_bandwidth);
    command
        .add_option_function<unsigned>(
            "--lanes", [&options](const unsigned& lanes) { options.settings.lanes = lanes; },
            "Connections that carry pages side by side (parameter multifd-channels)")
        ->type_name("N")
        ->check(CLI::Range(1U, 255U));
    // A flag with a value behind = only, so that it never takes the URI for its value.
    CLI::Option* postcopy = command.add_flag("--postcopy", postcopy_help);
    postcopy->type_name("[=SECONDS|auto]")
        ->check([](const std::string& text) {
            const auto start = postcopy_start(text);
            return start ? std::string{} : start.error().to_string();
        })
        ->each([&options](const std::string& text) {
            if (const auto start = postcopy_start(text)) {
                options.postcopy = *start;
            }
        });
    CLI::Option* detach =
        command.add_flag("--detach", options.detach, "Starts the migration and does not follow it")->excludes(postcopy);
    command
        .add_option_function<double>(
            "--timeout",
            [&options](const double& seconds) {
                options.timeout = std::chrono::milliseconds{static_cast<long long>(seconds * 1000)};
            },
            "Cancels the migration when it takes longer, seconds")
        ->check(CLI::Range(0.001, 1e8))
        ->type_name("S")
        ->excludes(detach);
    command.footer(std::string{migrate_examples} + "\n" + exit_codes_help());
}

void add_recover_options(CLI::App& command, RecoverOptions& options) {
    add_monitor_options(command, options.monitor, true);
    command.add_option("URI", options.uris, "Where to, as with migrate; on a destination where to listen (plain QEMU takes one)")
        ->required()
        ->expected(1, 8)
        ->type_name("");
    command.add_flag("--incoming", options.incoming, "This is the destination's monitor (otherwise it is asked)");
    add_common_settings(command, options.settings);
    command.add_flag("--detach", options.detach, "Starts the recovery and does not follow it");
    command.footer(std::string{recover_examples} + "\n" + exit_codes_help());
}

} // namespace pageferry::cli
