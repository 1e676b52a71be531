#include "transport/plugin/options.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace pageferry::plugin {

namespace {

constexpr std::uint32_t default_queue_depth = 1024;
constexpr std::uint32_t largest_queue_depth = 65536;

Error invalid(std::string object, std::string reason) {
    return make_error(ErrorCode::invalid_argument, "read options", std::move(object), std::move(reason));
}

} // namespace

Result<pf_options> read_options(const pf_options* given) {
    pf_options options{};
    options.lanes = 2;
    options.dead_peer_ms = 10'000;
    options.handshake_ms = 10'000;
    if (given != nullptr) {
        std::memcpy(&options, given, std::min<std::size_t>(given->size, sizeof options));
    }
    options.size = sizeof options;
    if (options.lanes == 0 || options.lanes > max_lanes) {
        return std::unexpected{invalid("lanes", std::to_string(options.lanes) + " is not in 1.." + std::to_string(max_lanes))};
    }
    if (options.dead_peer_ms == 0 || options.handshake_ms == 0) {
        return std::unexpected{invalid("dead_peer_ms, handshake_ms", "they must not be 0")};
    }
    options.queue_depth = options.queue_depth == 0 ? default_queue_depth : std::min(options.queue_depth, largest_queue_depth);
    return options;
}

} // namespace pageferry::plugin
