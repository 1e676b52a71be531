#include "perf/push_protocol.h"

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace pageferry::perf {

using nlohmann::json;

Result<void> say(transport::Connection& connection, const json& message, std::chrono::milliseconds timeout) {
    const std::string text = message.dump();
    return connection.send(std::as_bytes(std::span{text}), timeout);
}

Result<json> hear(transport::Connection& connection, std::chrono::milliseconds timeout) {
    std::vector<std::byte> buffer(PF_CONTROL_MAX);
    auto bytes = connection.receive(buffer, timeout);
    if (!bytes) {
        return std::unexpected(std::move(bytes.error()));
    }
    if (bytes->empty()) {
        return std::unexpected(make_error(ErrorCode::timed_out, "receive", connection.describe(), "The other side said nothing",
                                          "see whether it still runs"));
    }
    json message = json::parse(reinterpret_cast<const char*>(bytes->data()),
                               reinterpret_cast<const char*>(bytes->data() + bytes->size()), nullptr, false);
    if (!message.is_object() || !message.contains("op") || !message["op"].is_string()) {
        return std::unexpected(make_error(ErrorCode::protocol, "receive", connection.describe(),
                                          "The other side is no pageferry-perf", "start pageferry-perf push there"));
    }
    return message;
}

Result<json> ask(transport::Connection& connection, const json& message, const char* reply, std::chrono::milliseconds timeout) {
    if (auto said = say(connection, message, timeout); !said) {
        return std::unexpected(std::move(said.error()));
    }
    auto answer = hear(connection, timeout);
    if (answer && (*answer)["op"] != reply) {
        const std::string text =
            answer->contains("text") && (*answer)["text"].is_string() ? (*answer)["text"].get<std::string>() : answer->dump();
        return std::unexpected(make_error(ErrorCode::refused, message["op"].get<std::string>(), connection.describe(), text));
    }
    return answer;
}

} // namespace pageferry::perf
