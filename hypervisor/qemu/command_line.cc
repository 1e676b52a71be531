#include "hypervisor/qemu/command_line.h"

#include "hypervisor/qemu/plan_parts.h"
#include "transport/uri.h"

#include <algorithm>
#include <array>

namespace pageferry::hypervisor {

namespace {

constexpr std::string_view start = "start QEMU";

template <std::size_t N>
bool one_of(std::string_view text, const std::array<std::string_view, N>& list) {
    return std::ranges::find(list, text) != list.end();
}

// Options that QEMU answers with a list when their value is a question.
constexpr auto with_help = std::to_array<std::string_view>(
    {"accel",   "audio",   "audiodev", "blockdev", "chardev", "cpu",      "d",   "device", "display",
     "drive",   "k",       "M",        "machine",  "net",     "netdev",   "nic", "object", "rtc",
     "sandbox", "soundhw", "tpmdev",   "trace",    "vga",     "watchdog", "L"});

bool is_question(std::string_view value) {
    return value == "help" || value == "?" || value.ends_with(",help") || value.ends_with(",?") || value.ends_with("=help");
}

// QEMU only answers and exits, or has no guest.
bool runs_no_guest(const CommandLine& line) {
    const std::string type = line.machine.get_or("type", "");
    if (type == "none") {
        return true;
    }
    return std::ranges::any_of(line.words, [](const Word& word) {
        const Option& option = word.option;
        return option.is("h") || option.is("help") || option.is("version") || option.is("dump-vmstate") ||
               option.is("audio-help") || (option.has_value && one_of(option.name, with_help) && is_question(option.value));
    });
}

Result<CommandLine> read(std::span<const std::string> argv) {
    CommandLine line{.binary = argv[0], .words = {}, .added = {}, .machine = {}};
    for (Option& option : split_options(argv.subspan(1))) {
        if (option.is("machine") || option.is("M")) {
            auto properties = Properties::parse(option.value, "type");
            if (!properties) {
                return std::unexpected(properties.error());
            }
            for (const auto& [key, value] : properties->all()) {
                line.machine.set(key, value); // later ones win, as in QEMU
            }
        }
        line.words.push_back({.option = std::move(option), .replacement = std::nullopt});
    }
    return line;
}

Result<void> refuse_what_cannot_be(const CommandLine& line) {
    const auto refuse = [](std::string object, std::string reason, std::string remedy) {
        return std::unexpected(
            make_error(ErrorCode::invalid_argument, std::string{start}, std::move(object), std::move(reason), std::move(remedy)));
    };
    const std::string accel = line.value("accel").value_or(line.machine.get_or("accel", ""));
    if (line.has("xen-attach") || accel == "xen") {
        return refuse("Xen", "guest RAM belongs to Xen and not to QEMU", "start QEMU without Pageferry");
    }
    if (line.has("daemonize") && line.has("nographic")) {
        return refuse("-nographic", "-nographic cannot be used with -daemonize", "use -display none");
    }
    if (line.has("daemonize") && (line.has("curses") || line.value("display").value_or("").starts_with("curses"))) {
        return refuse("-display curses", "curses display cannot be used with -daemonize", "use -display none");
    }
    return {};
}

// -incoming: what Pageferry carries becomes "defer", so that QEMU waits for what Pageferry brings it.
Result<void> plan_incoming(CommandLine& line, LaunchPlan& plan) {
    plan.autostart = !line.has("S");
    const auto last =
        std::ranges::find_if(line.words.rbegin(), line.words.rend(), [](const Word& w) { return w.option.is("incoming"); });
    if (last == line.words.rend()) {
        return {};
    }
    const Option& option = last->option;
    plan.incoming_given = true;
    plan.incoming = option.value;
    if (option.value.starts_with('{')) {
        return std::unexpected(make_error(ErrorCode::unsupported, std::string{start}, to_text(option),
                                          "Pageferry takes a URI here", "use -incoming tcp:HOST:PORT or -incoming defer"));
    }
    static constexpr auto native = std::to_array<std::string_view>({"fd", "exec", "file", "vsock"});
    if (one_of(transport::scheme_of(option.value), native)) {
        plan.incoming_native = true;
        return {};
    }
    if (option.value != "defer") {
        if (auto uri = transport::parse_uri(option.value); !uri) {
            Error error = uri.error();
            error.object = to_text(option);
            return std::unexpected(std::move(error));
        }
        last->replacement = {plain_argument(option.given), plain_argument("defer")};
    }
    if (plan.autostart) {
        line.add("-S"); // the guest runs when the migration permits it, not when QEMU has loaded its devices
    }
    return {};
}

void plan_rest(CommandLine& line, LaunchPlan& plan) {
    for (Word& word : line.words) {
        if (word.option.is("daemonize")) {
            plan.daemonize = true;
            word.replacement.emplace();
        } else if (word.option.is("name")) {
            if (const auto properties = Properties::parse(word.option.value, "guest")) {
                plan.guest_name = properties->get_or("guest", plan.guest_name);
            }
        }
    }
}

Result<LaunchPlan> plan_guest(CommandLine& line, const Host& host) {
    LaunchPlan plan;
    if (auto possible = refuse_what_cannot_be(line); !possible) {
        return std::unexpected(possible.error());
    }
    plan_rest(line, plan);
    for (const Word& word : line.words) {
        if (word.option.is("readconfig")) {
            if (auto checked = check_config_file(word.option, host, plan); !checked) {
                return std::unexpected(checked.error());
            }
        }
    }
    if (auto done = plan_ram(line, host, plan); !done) {
        return std::unexpected(done.error());
    }
    if (auto done = plan_monitors(line, plan); !done) {
        return std::unexpected(done.error());
    }
    if (auto done = plan_incoming(line, plan); !done) {
        return std::unexpected(done.error());
    }
    if (auto done = scan_devices(line, plan); !done) {
        return std::unexpected(done.error());
    }
    plan.arguments.push_back(plain_argument(line.binary));
    for (Word& word : line.words) {
        if (word.replacement) {
            std::ranges::move(*word.replacement, std::back_inserter(plan.arguments));
            continue;
        }
        plan.arguments.push_back(plain_argument(word.option.given));
        if (word.option.has_value) {
            plan.arguments.push_back(plain_argument(word.option.value));
        }
    }
    std::ranges::move(line.added, std::back_inserter(plan.arguments));
    return plan;
}

} // namespace

bool CommandLine::has(std::string_view name) const {
    return std::ranges::any_of(words, [&](const Word& word) { return word.option.is(name); });
}

std::optional<std::string> CommandLine::value(std::string_view name) const {
    std::optional<std::string> found;
    for (const Word& word : words) {
        if (word.option.is(name) && word.option.has_value) {
            found = word.option.value;
        }
    }
    return found;
}

PlannedArgument plain_argument(std::string text) {
    return {.before = std::move(text), .slot = Slot::none, .index = 0, .after = {}};
}

std::vector<std::string> render(const LaunchPlan& plan, const std::function<int(Slot, std::size_t)>& number) {
    std::vector<std::string> words;
    words.reserve(plan.arguments.size());
    for (const PlannedArgument& argument : plan.arguments) {
        words.push_back(argument.slot == Slot::none
                            ? argument.before
                            : argument.before + std::to_string(number(argument.slot, argument.index)) + argument.after);
    }
    return words;
}

Result<LaunchPlan> plan_launch(std::span<const std::string> argv, const Host& host) {
    if (argv.empty() || argv[0].empty()) {
        return std::unexpected(make_error(ErrorCode::invalid_argument, std::string{start}, {}, "no QEMU binary is given",
                                          "pageferry qemu -- qemu-system-x86_64 ..."));
    }
    auto line = read(argv);
    if (!line) {
        return std::unexpected(line.error());
    }
    if (host.switched_off() || runs_no_guest(*line)) {
        LaunchPlan plan{.plain = true};
        std::ranges::transform(argv, std::back_inserter(plan.arguments), plain_argument);
        return plan;
    }
    return plan_guest(*line, host);
}

} // namespace pageferry::hypervisor
