#include "monitor/migration_target.h"

#include "monitor/transport_choice.h"
#include "transport/uri.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <utility>

namespace pageferry::monitor {

namespace {

using nlohmann::json;

constexpr std::array<std::string_view, 2> channel_types{"main", "cpr"};
constexpr std::array<std::string_view, 4> transports{"socket", "exec", "rdma", "file"};
constexpr std::array<std::string_view, 4> socket_types{"inet", "unix", "vsock", "fd"};
constexpr std::array<std::string_view, 4> of_qemu{"fd", "exec", "file", "vsock"};
constexpr std::array<std::string_view, 3> of_pageferry{"tcp", "unix", "rdma"};

std::string host_and_port(Arguments& address) {
    const std::string host = address.required_string("host");
    const std::string port = address.required_string("port");
    return (host.contains(':') ? "[" + host + "]" : host) + ":" + port;
}

// Options of an address that change nothing about where it leads, or that Pageferry's transports set by themselves.
void skip(Arguments& address, std::initializer_list<std::string_view> names) {
    for (const std::string_view name : names) {
        (void)address.any(name);
    }
}

std::string inet_uri(Arguments& address, std::string_view scheme) {
    std::string uri = std::string{scheme} + ":" + host_and_port(address);
    if (address.any("to") != nullptr || address.boolean("mptcp").value_or(false)) {
        address.fail("Pageferry does not implement a range of ports ('to') or 'mptcp' in a migration address");
    }
    skip(address, {"numeric", "ipv4", "ipv6", "keep-alive", "keep-alive-count", "keep-alive-idle", "keep-alive-interval"});
    return uri;
}

std::string socket_uri(Arguments& address) {
    const std::string type = address.required_enum("type", socket_types);
    if (type == "inet") {
        return inet_uri(address, "tcp");
    }
    if (type == "unix") {
        if (address.boolean("abstract").value_or(false)) {
            address.fail("Pageferry does not implement abstract socket addresses");
        }
        skip(address, {"tight"});
        return "unix:" + address.required_string("path");
    }
    if (type == "fd") {
        return "fd:" + address.required_string("str");
    }
    return "vsock:" + address.required_string("cid") + ":" + address.required_string("port");
}

std::string address_uri(Arguments& address) {
    const std::string transport = address.required_enum("transport", transports);
    if (transport == "socket") {
        return socket_uri(address);
    }
    if (transport == "rdma") {
        return inet_uri(address, "rdma");
    }
    if (transport == "exec") {
        (void)address.required_array("args");
        return "exec:"; // the command itself is QEMU's to read
    }
    std::string uri = "file:" + address.required_string("filename");
    (void)address.unsigned_integer("offset");
    return uri;
}

} // namespace

TargetArguments::Channel TargetArguments::read_channel(Arguments& channel, Arguments& outer, const std::string& at) {
    Channel read;
    read.type = channel.required_enum("channel-type", channel_types);
    if (const json* const object = channel.required_object("addr"); object != nullptr) {
        Arguments address{*object, at + ".addr"};
        read.uri = address_uri(address);
        if (const auto done = address.finish(); !done) {
            outer.fail(done.error().reason);
        }
    }
    if (const auto done = channel.finish(); !done) {
        outer.fail(done.error().reason);
    }
    return read;
}

TargetArguments::TargetArguments(Arguments& arguments) {
    const auto uri = arguments.string("uri");
    has_uri_ = uri.has_value();
    uri_ = uri.value_or("");
    const json* const list = arguments.array("channels");
    has_channels_ = list != nullptr && !list->empty(); // QEMU: an empty list is as good as none
    for (std::size_t i = 0; has_channels_ && i < list->size(); ++i) {
        const std::string at = "channels[" + std::to_string(i) + "]";
        Arguments channel{(*list)[i], at};
        channels_.push_back(read_channel(channel, arguments, at));
    }
    uris_ = read_uris(arguments);
}

std::optional<std::vector<std::string>> read_uris(Arguments& arguments) {
    const json* const list = arguments.array("uris");
    if (list == nullptr) {
        return std::nullopt;
    }
    if (list->empty() || list->size() > most_uris) {
        arguments.fail("Parameter 'uris' expects 1 to " + std::to_string(most_uris) + " URIs");
        return std::nullopt;
    }
    std::vector<std::string> uris;
    for (const json& uri : *list) {
        if (!uri.is_string()) {
            arguments.fail("Invalid parameter type for 'uris[" + std::to_string(uris.size()) + "]', expected: string");
            return std::nullopt;
        }
        uris.push_back(uri.get<std::string>());
    }
    return uris;
}

Result<MigrationTarget> TargetArguments::resolve(bool incoming, const SchemeKnown& scheme_known) const {
    if (uris_) {
        return has_uri_ || has_channels_ ? refuse_with("need only one of the arguments 'uri', 'channels' and 'uris'")
                                         : resolve_uris(*uris_, scheme_known);
    }
    if (has_uri_ == has_channels_) {
        return refuse_with("need either 'uri' or 'channels' argument");
    }
    if (has_uri_) {
        return resolve_uri(uri_, scheme_known);
    }
    if (incoming && channels_.size() > 1) {
        return refuse_with("Channel list must have only one entry, for type 'main'");
    }
    for (const std::string_view type : channel_types) {
        if (std::ranges::count(channels_, type, &Channel::type) > 1) {
            return refuse_with("Channel list has more than one " + std::string{type} + " entry");
        }
    }
    const auto main = std::ranges::find(channels_, "main", &Channel::type);
    if (main == channels_.end()) {
        return refuse_with("Channel list has no main entry");
    }
    if (channels_.size() > 1) {
        return refuse_with("Pageferry does not implement the migration channel 'cpr'");
    }
    return resolve_uri(main->uri, scheme_known);
}

Result<MigrationTarget> resolve_uri(const std::string& uri, const SchemeKnown& scheme_known) {
    const std::string scheme{transport::scheme_of(uri)};
    if (std::ranges::find(of_qemu, scheme) != of_qemu.end()) {
        return MigrationTarget{.carrier = MigrationTarget::Carrier::qemu, .uris = {uri}};
    }
    if (std::ranges::find(of_pageferry, scheme) == of_pageferry.end() && (scheme.empty() || !scheme_known(scheme))) {
        return refuse_with("unknown migration protocol: " + uri);
    }
    if (const auto parsed = transport::parse_uri(uri); !parsed) {
        return std::unexpected{parsed.error()};
    }
    return MigrationTarget{.carrier = MigrationTarget::Carrier::pageferry, .uris = {uri}};
}

Result<MigrationTarget> resolve_uris(const std::vector<std::string>& uris, const SchemeKnown& scheme_known) {
    for (const auto& uri : uris) {
        const auto one = resolve_uri(uri, scheme_known);
        if (!one) {
            return one;
        }
        if (one->carrier == MigrationTarget::Carrier::qemu) {
            return refuse_with("'uris' is for migrations that Pageferry carries, " + uri + " is QEMU's own: give it as 'uri'");
        }
    }
    return MigrationTarget{.carrier = MigrationTarget::Carrier::pageferry, .uris = uris};
}

} // namespace pageferry::monitor
