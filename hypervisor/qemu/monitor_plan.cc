#include "hypervisor/qemu/plan_parts.h"

#include <algorithm>
#include <charconv>

namespace pageferry::hypervisor {

namespace {

constexpr std::string_view start = "start QEMU";
constexpr const char* private_id = "pageferry.qmp";
constexpr const char* use_instead = "use a socket: -qmp unix:PATH,server=on,wait=off";

template <class T>
std::optional<T> number(std::string_view text) {
    T value = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc{} && rest == text.data() + text.size() ? std::optional{value} : std::nullopt;
}

Error refuse(const std::string& object, std::string reason, std::string remedy = use_instead) {
    return make_error(ErrorCode::invalid_argument, std::string{start}, object, std::move(reason), std::move(remedy));
}

// The socket a control monitor is on, from the properties of a socket chardev (or of -qmp unix:..., -qmp tcp:...).
Result<PlannedMonitor> socket_monitor(const std::string& object, const Properties& properties) {
    for (const char* key : {"telnet", "tn3270", "websocket", "mux", "mptcp"}) {
        if (properties.flag(key, false)) {
            return std::unexpected(refuse(object, join("Pageferry serves this monitor and does not do ", key, "=on")));
        }
    }
    for (const char* key : {"tls-creds", "tls-authz", "reconnect", "reconnect-ms"}) {
        if (const auto value = properties.get(key); value && !(std::string_view{key}.starts_with("reconnect") && *value == "0")) {
            return std::unexpected(refuse(object, join("Pageferry serves this monitor and does not do ", key)));
        }
    }
    const bool server = properties.flag("server", false);
    if (!server && properties.flag("wait", false)) {
        return std::unexpected(refuse(object, "wait=on means nothing without server=on", "add server=on, or leave wait out"));
    }
    PlannedMonitor monitor{.id = properties.get_or("id", ""), .wait = server && properties.flag("wait", true)};
    if (const auto fd = properties.get("fd")) {
        const auto value = number<int>(*fd);
        if (!value || *value < 0) {
            return std::unexpected(refuse(object, join("fd=", *fd, " is not the number of an inherited descriptor")));
        }
        monitor.fd = *value;
        monitor.kind = server ? MonitorKind::fd_listen : MonitorKind::fd_connected;
        monitor.address = "fd:" + *fd;
    } else if (const auto path = properties.get("path")) {
        monitor.path = *path;
        monitor.abstract = properties.flag("abstract", false);
        monitor.tight = properties.flag("tight", true);
        monitor.kind = server ? MonitorKind::unix_listen : MonitorKind::unix_connect;
        monitor.address = "unix:" + *path;
    } else if (const auto port = properties.get("port")) {
        monitor.host = properties.get_or("host", "");
        monitor.port = *port;
        monitor.kind = server ? MonitorKind::tcp_listen : MonitorKind::tcp_connect;
        monitor.address = "tcp:" + monitor.host + ":" + *port;
        monitor.nodelay = properties.flag("nodelay", !properties.flag("delay", true));
        if (const auto to = properties.get("to")) {
            monitor.to = number<unsigned>(*to);
            if (!monitor.to) {
                return std::unexpected(refuse(object, join("to=", *to, " is not a port number"), "give the last port to try"));
            }
        }
        monitor.ipv4 = properties.has("ipv4") ? std::optional{properties.flag("ipv4", true)} : std::nullopt;
        monitor.ipv6 = properties.has("ipv6") ? std::optional{properties.flag("ipv6", true)} : std::nullopt;
    } else {
        return std::unexpected(refuse(object, "the socket has no path, no port and no fd"));
    }
    return monitor;
}

Result<PlannedMonitor> chardev_monitor(const std::string& object, const Properties& properties) {
    const std::string backend = properties.get_or("backend", "");
    if (backend == "socket") {
        return socket_monitor(object, properties);
    }
    if (backend == "stdio" && !properties.flag("mux", false)) {
        return PlannedMonitor{.id = properties.get_or("id", ""), .address = "stdio", .kind = MonitorKind::stdio};
    }
    return std::unexpected(
        refuse(object,
               join("Pageferry serves control monitors on sockets and stdio, not on ", backend,
                    backend == "stdio" ? " with mux=on" : ""),
               join("use -chardev socket,id=", properties.get_or("id", "ID"), ",path=PATH,server=on,wait=off")));
}

// The legacy form of -qmp: "unix:PATH,server=on", "tcp:HOST:PORT,server=on", "stdio".
Result<PlannedMonitor> legacy_monitor(const std::string& object, std::string_view text) {
    if (text == "stdio") {
        return PlannedMonitor{.address = "stdio", .kind = MonitorKind::stdio};
    }
    if (text.starts_with("unix:")) {
        auto properties = Properties::parse(text.substr(5), "path");
        return properties ? socket_monitor(object, *properties) : std::unexpected(properties.error());
    }
    if (text.starts_with("tcp:")) {
        const std::string_view address =
            text.substr(4, text.find(',') == std::string_view::npos ? text.npos : text.find(',') - 4);
        const auto colon = address.rfind(':');
        if (colon == std::string_view::npos || colon + 1 == address.size()) {
            return std::unexpected(refuse(object, "the address has no port", "use -qmp tcp:HOST:PORT,server=on,wait=off"));
        }
        std::string_view host = address.substr(0, colon);
        if (host.starts_with('[') && host.ends_with(']')) {
            host = host.substr(1, host.size() - 2);
        }
        const std::string_view rest = text.substr(std::min(text.size(), 4 + address.size() + 1));
        auto properties = Properties::parse(rest);
        if (!properties) {
            return std::unexpected(properties.error());
        }
        properties->set("host", host);
        properties->set("port", address.substr(colon + 1));
        return socket_monitor(object, *properties);
    }
    return std::unexpected(refuse(object, join("Pageferry serves control monitors on sockets and stdio, not on ",
                                               text.substr(0, text.find_first_of(":,")))));
}

PlannedArgument backend_chardev(const std::string& id, std::size_t index, const Properties* log_of) {
    PlannedArgument argument{
        .before = "socket,id=" + escape_commas(id) + ",fd=", .slot = Slot::user_monitor, .index = index, .after = {}};
    for (const char* key : {"logfile", "logappend"}) {
        if (const auto value = log_of != nullptr ? log_of->get(key) : std::nullopt) {
            argument.after += join(",", key, "=", escape_commas(*value));
        }
    }
    return argument;
}

// The chardev of a control monitor becomes QEMU's end of a socket pair, under the same id; -mon stays as it is.
Result<void> take_chardev(CommandLine& line, LaunchPlan& plan, const std::string& id, const Option& asked_by, bool pretty) {
    const auto taken = [&](const PlannedMonitor& monitor) { return monitor.id == id; };
    if (std::ranges::any_of(plan.monitors, taken)) {
        return {}; // a second monitor on one chardev: QEMU says so
    }
    for (Word& word : line.words) {
        if (!word.option.is("chardev")) {
            continue;
        }
        auto properties = Properties::parse(word.option.value, "backend");
        if (!properties) {
            return std::unexpected(properties.error());
        }
        if (properties->get_or("id", "") != id) {
            continue;
        }
        if (properties->get_or("backend", "") == "null") {
            return {}; // nobody can reach it
        }
        auto monitor = chardev_monitor(to_text(word.option), *properties);
        if (!monitor) {
            return std::unexpected(monitor.error());
        }
        monitor->pretty = pretty;
        word.replacement = {plain_argument(word.option.given), backend_chardev(id, plan.monitors.size(), &*properties)};
        plan.monitors.push_back(std::move(*monitor));
        return {};
    }
    return std::unexpected(refuse(to_text(asked_by), join("there is no -chardev with id=", id, " on the command line"),
                                  join("add -chardev socket,id=", id, ",path=PATH,server=on,wait=off")));
}

Result<void> take_mon(CommandLine& line, LaunchPlan& plan, const Option& option) {
    auto properties = Properties::parse(option.value, "chardev");
    if (!properties) {
        return std::unexpected(properties.error());
    }
    if (properties->get_or("mode", "readline") != "control") {
        return {};
    }
    return take_chardev(line, plan, properties->get_or("chardev", ""), option, properties->flag("pretty", false));
}

Result<void> take_qmp(CommandLine& line, LaunchPlan& plan, std::size_t at) {
    const Option option = line.words[at].option;
    const bool pretty = option.is("qmp-pretty");
    if (option.value == "null") {
        return {};
    }
    if (option.value.starts_with("chardev:")) {
        return take_chardev(line, plan, option.value.substr(8), option, pretty);
    }
    auto monitor = legacy_monitor(to_text(option), option.value);
    if (!monitor) {
        return std::unexpected(monitor.error());
    }
    const std::size_t index = plan.monitors.size();
    monitor->id = join("pageferry.user", index);
    monitor->pretty = pretty;
    line.words[at].replacement = {plain_argument("-chardev"), backend_chardev(monitor->id, index, nullptr),
                                  plain_argument("-mon"),
                                  plain_argument(join("chardev=", monitor->id, ",mode=control", pretty ? ",pretty=on" : ""))};
    plan.monitors.push_back(std::move(*monitor));
    return {};
}

// QEMU makes a human monitor by default only where no monitor is asked for at all. Ours would take it away, so it is asked for.
Result<void> keep_default_monitor(CommandLine& line) {
    bool serial = true; // QEMU makes a default serial port
    for (const Word& word : line.words) {
        const Option& option = word.option;
        if (option.is("nodefaults") || option.is("monitor") || option.is("mon") || option.is("qmp") || option.is("qmp-pretty")) {
            return {};
        }
        if ((option.is("serial") || option.is("parallel")) && option.value.starts_with("mon:")) {
            return {};
        }
        if (option.is("device")) {
            auto properties = Properties::parse(option.value, "driver");
            if (!properties) {
                return std::unexpected(properties.error());
            }
            serial = serial && properties->get_or("driver", "") != "isa-serial";
        }
        serial = serial && !option.is("serial");
    }
    if (!line.has("nographic")) {
        line.add("-monitor");
        line.add("vc:80Cx24C");
    } else if (serial) {
        line.add("-serial");
        line.add("mon:stdio");
    } else {
        line.add("-monitor");
        line.add("stdio");
    }
    return {};
}

} // namespace

Result<void> plan_monitors(CommandLine& line, LaunchPlan& plan) {
    if (auto kept = keep_default_monitor(line); !kept) {
        return kept;
    }
    for (std::size_t at = 0; at < line.words.size(); ++at) {
        const Option option = line.words[at].option;
        Result<void> taken;
        if (option.is("mon")) {
            taken = take_mon(line, plan, option);
        } else if (option.is("qmp") || option.is("qmp-pretty")) {
            taken = take_qmp(line, plan, at);
        }
        if (!taken) {
            return taken;
        }
    }
    const auto on_stdio = [](const PlannedMonitor& monitor) { return monitor.kind == MonitorKind::stdio; };
    const auto stdios = std::ranges::count_if(plan.monitors, on_stdio);
    if (stdios > 1) {
        return std::unexpected(refuse("stdio", "two monitors cannot share stdio"));
    }
    if (stdios == 1 && plan.daemonize) {
        return std::unexpected(refuse("-qmp stdio", "there is no stdio with -daemonize"));
    }
    line.add("-chardev");
    line.added.push_back(
        {.before = join("socket,id=", private_id, ",fd="), .slot = Slot::private_monitor, .index = 0, .after = {}});
    line.add("-mon");
    line.add(join("chardev=", private_id, ",mode=control"));
    return {};
}

} // namespace pageferry::hypervisor
