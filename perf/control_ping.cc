#include "perf/control_ping.h"

#include "transport/loader.h"
#include "transport/uri.h"

#include <cstdio>
#include <optional>
#include <span>
#include <vector>

namespace pageferry::perf {

namespace {

using std::chrono::steady_clock;

// Sends, and waits for as much to come back.
Result<void> there_and_back(transport::Connection& connection, std::span<const std::byte> message, std::span<std::byte> buffer,
                            std::chrono::milliseconds timeout) {
    if (auto sent = connection.send(message, timeout); !sent) {
        return sent;
    }
    const auto back = connection.receive(buffer, timeout);
    if (!back) {
        return std::unexpected(back.error());
    }
    if (back->size() != message.size()) {
        return std::unexpected(make_error(back->empty() ? ErrorCode::timed_out : ErrorCode::protocol, "receive",
                                          connection.describe(), "What was sent did not come back",
                                          "start pageferry-perf control --listen there"));
    }
    return {};
}

} // namespace

Result<void> serve_control(const ControlOptions& options) {
    auto plugin = transport::load(std::string{transport::scheme_of(options.uri)});
    if (!plugin) {
        return std::unexpected(std::move(plugin.error()));
    }
    transport::Options how;
    how.lanes = 1;
    auto listener = plugin->listen(options.uri, how);
    if (!listener) {
        return std::unexpected(std::move(listener.error()));
    }
    std::printf("listening %s\n", listener->uri().c_str());
    std::fflush(stdout);
    std::optional<Error> rejected;
    auto accepted = listener->accept(options.timeout, &rejected);
    if (!accepted) {
        return std::unexpected(std::move(accepted.error()));
    }
    std::optional<transport::Connection>& peer = *accepted;
    if (!peer) {
        return std::unexpected(rejected ? *rejected
                                        : make_error(ErrorCode::timed_out, "accept", options.uri, "Nobody connected",
                                                     "start the asking side, or give a longer --timeout"));
    }
    std::vector<std::byte> buffer(PF_CONTROL_MAX);
    for (;;) {
        const auto message = peer->receive(buffer, options.timeout);
        if (!message) {
            return std::unexpected(message.error());
        }
        if (message->empty()) {
            return std::unexpected(make_error(ErrorCode::timed_out, "receive", peer->describe(), "The asking side said nothing"));
        }
        if (auto sent = peer->send(*message, options.timeout); !sent) {
            return sent;
        }
        if (message->size() == 1) {
            // It closes once it has this: a connection that ended here might take the message with it.
            static_cast<void>(peer->receive(buffer, options.timeout));
            return {};
        }
    }
}

Result<ControlReport> run_control(const ControlOptions& options) {
    auto plugin = transport::load(std::string{transport::scheme_of(options.uri)});
    if (!plugin) {
        return std::unexpected(std::move(plugin.error()));
    }
    transport::Options how;
    how.lanes = 1;
    how.session.fill(0x70);
    auto connection = plugin->open(options.uri, how);
    if (!connection) {
        return std::unexpected(std::move(connection.error()));
    }
    if (auto connected = connection->connect(options.timeout, {}); !connected) {
        return std::unexpected(std::move(connected.error()));
    }
    const std::vector<std::byte> message(options.size, std::byte{0x70});
    std::vector<std::byte> buffer(PF_CONTROL_MAX);
    std::vector<double> samples;
    for (unsigned i = 0; i < options.warm_up + options.runs; ++i) {
        const auto begin = steady_clock::now();
        if (auto echoed = there_and_back(*connection, message, buffer, options.timeout); !echoed) {
            return std::unexpected(std::move(echoed.error()));
        }
        if (i >= options.warm_up) {
            samples.push_back(std::chrono::duration<double>(steady_clock::now() - begin).count());
        }
    }
    ControlReport report{.connection = connection->describe(), .round_trip = spread_of(samples)};
    const std::byte last{};
    if (auto ended = there_and_back(*connection, {&last, 1}, buffer, options.timeout); !ended) {
        return std::unexpected(std::move(ended.error()));
    }
    return report;
}

} // namespace pageferry::perf
