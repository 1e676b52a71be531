#include "perf/push.h"

#include "perf/cpu_time.h"
#include "perf/push_protocol.h"
#include "perf/shared_ram.h"
#include "transport/loader.h"
#include "transport/uri.h"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <memory>
#include <optional>

namespace pageferry::perf {

namespace {

using nlohmann::json;

// Who may connect is not asked here: whoever does decides how much memory is taken, so there is a limit.
constexpr std::uint64_t largest_ram = std::uint64_t{1} << 40;

class Target {
public:
    explicit Target(transport::Connection& connection) : connection_(connection) {}

    // The reply; empty when the pushing side is done.
    Result<std::optional<json>> answer(const json& request) {
        const std::string op = request["op"].get<std::string>();
        if (op == "end") {
            return std::nullopt;
        }
        if (op == "setup") {
            return setup(request);
        }
        if (!ram_) {
            return json{{"op", "error"}, {"text", "there was no setup"}};
        }
        if (op == "start") {
            if (fresh_) {
                if (auto discarded = ram_->discard(); !discarded) {
                    return std::unexpected(std::move(discarded.error()));
                }
            }
            cpu_ = cpu_seconds();
            return json{{"op", "started"}};
        }
        if (op == "stop") {
            return json{{"op", "stopped"}, {"cpu_seconds", cpu_seconds() - cpu_}};
        }
        if (op == "verify") {
            if (const auto wrong = ram_->first_difference()) {
                return json{{"op", "error"}, {"text", "the RAM that arrived differs from offset " + std::to_string(*wrong)}};
            }
            return json{{"op", "verified"}};
        }
        return json{{"op", "error"}, {"text", "unknown request " + op}};
    }

private:
    Result<std::optional<json>> setup(const json& request) {
        const auto size = request.find("size");
        if (ram_ || size == request.end() || !size->is_number_unsigned() || size->get<std::uint64_t>() > largest_ram) {
            return json{{"op", "error"}, {"text", "setup with no size, one above 1 TiB, or a second one"}};
        }
        fresh_ = request.contains("fresh") && request["fresh"] == true;
        auto ram = SharedRam::create(size->get<std::uint64_t>());
        if (!ram) {
            return json{{"op", "error"}, {"text", ram.error().to_string()}};
        }
        if (auto populated = ram->populate(); !populated) {
            return json{{"op", "error"}, {"text", populated.error().to_string()}};
        }
        const bool pull = request.contains("pull") && request["pull"] == true;
        if (pull) {
            ram->fill();
        }
        ram_.emplace(std::move(*ram));
        const transport::MemoryBlock block{.block = 0,
                                           .name = "perf",
                                           .address = ram_->address(),
                                           .length = ram_->length(),
                                           .page_size = 4096,
                                           .access = PF_MEMORY_PUSH_TARGET | (pull ? PF_MEMORY_PULL_SOURCE : 0U)};
        if (auto added = connection_.add_memory({&block, 1}); !added) {
            return std::unexpected(std::move(added.error()));
        }
        return json{{"op", "ready"}};
    }

    transport::Connection& connection_;
    std::optional<SharedRam> ram_;
    bool fresh_ = false;
    double cpu_ = 0;
};

} // namespace

Result<void> serve_push(const PushOptions& options) {
    auto plugin = transport::load(std::string{transport::scheme_of(options.uri)});
    if (!plugin) {
        return std::unexpected(std::move(plugin.error()));
    }
    transport::Options how;
    how.lanes = options.lanes;
    how.dead_peer = options.dead_peer;
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
                                                     "start the pushing side, or give a longer --timeout"));
    }
    // On the heap, so that it can end before the target, whose memory it writes.
    auto connection = std::make_unique<transport::Connection>(std::move(*peer));
    Target target{*connection};
    Result<void> result;
    for (;;) {
        auto request = hear(*connection, options.timeout);
        if (!request) {
            result = std::unexpected(std::move(request.error()));
            break;
        }
        auto reply = target.answer(*request);
        if (!reply) {
            result = std::unexpected(std::move(reply.error()));
            break;
        }
        const std::optional<json>& message = *reply;
        if (!message) {
            break;
        }
        if (auto said = say(*connection, *message, options.timeout); !said) {
            result = std::unexpected(std::move(said.error()));
            break;
        }
    }
    connection.reset(); // before the memory goes
    return result;
}

} // namespace pageferry::perf
