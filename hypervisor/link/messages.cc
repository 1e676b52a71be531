#include "hypervisor/link/messages.h"

#include <charconv>

namespace pageferry::hypervisor {

using nlohmann::json;

namespace {

std::string text_of(const json& object, std::string_view key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string{};
}

std::uint64_t number_of(const json& object, std::string_view key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
}

bool flag_of(const json& object, std::string_view key) {
    const auto found = object.find(key);
    return found != object.end() && found->is_boolean() && found->get<bool>();
}

} // namespace

std::string session_text(const transport::SessionId& session) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (const auto byte : session) {
        text += digits[byte >> 4U];
        text += digits[byte & 15U];
    }
    return text;
}

bool read_session(std::string_view text, transport::SessionId& session) {
    if (text.size() != 2 * session.size()) {
        return false;
    }
    for (std::size_t i = 0; i < session.size(); ++i) {
        const char* first = text.data() + 2 * i;
        const auto [end, error] = std::from_chars(first, first + 2, session[i], 16);
        if (error != std::errc{} || end != first + 2) {
            return false;
        }
    }
    return true;
}

std::string LinkMessage::text(std::string_view key) const {
    return text_of(body, key);
}
std::uint64_t LinkMessage::number(std::string_view key) const {
    return number_of(body, key);
}
bool LinkMessage::flag(std::string_view key) const {
    return flag_of(body, key);
}

json to_json(const MoverStart& start) {
    json blocks = json::array();
    for (const auto& block : start.blocks) {
        blocks.push_back({{"name", block.name},
                          {"length", block.length},
                          {"page-size", block.page_size},
                          {"file-offset", block.file_offset},
                          {"guest-address", block.guest_address}});
    }
    return {{"type", "start"},
            {"side", std::string{statemachine::name_of(start.side)}},
            {"uri", start.uri},
            {"session", session_text(start.session)},
            {"lanes", start.lanes},
            {"dead-peer-ms", static_cast<std::uint64_t>(start.dead_peer.count())},
            {"connect-timeout-ms", static_cast<std::uint64_t>(start.connect_timeout.count())},
            {"pause-before-switchover", start.pause_before_switchover},
            {"settle", start.settle},
            {"epoch", start.epoch},
            {"guest-runs", start.guest_runs},
            {"transport-path", start.transport_path},
            {"userfaultfd", start.has_userfaultfd},
            {"pagemap", start.has_pagemap},
            {"clear-refs", start.has_clear_refs},
            {"blocks", std::move(blocks)}};
}

Result<MoverStart> mover_start_from(const json& body) {
    MoverStart start;
    const std::string side = text_of(body, "side");
    start.side =
        side == statemachine::name_of(statemachine::Side::source) ? statemachine::Side::source : statemachine::Side::destination;
    start.uri = text_of(body, "uri");
    start.lanes = static_cast<unsigned>(number_of(body, "lanes"));
    start.dead_peer = std::chrono::milliseconds{number_of(body, "dead-peer-ms")};
    start.connect_timeout = std::chrono::milliseconds{number_of(body, "connect-timeout-ms")};
    start.settle = flag_of(body, "settle");
    start.epoch = static_cast<std::uint32_t>(number_of(body, "epoch"));
    start.guest_runs = flag_of(body, "guest-runs");
    start.pause_before_switchover = flag_of(body, "pause-before-switchover");
    start.has_userfaultfd = flag_of(body, "userfaultfd");
    start.has_pagemap = flag_of(body, "pagemap");
    start.has_clear_refs = flag_of(body, "clear-refs");
    for (const auto& directory : body.value("transport-path", json::array())) {
        if (directory.is_string()) {
            start.transport_path.push_back(directory.get<std::string>());
        }
    }
    for (const auto& block : body.value("blocks", json::array())) {
        start.blocks.push_back(memory::RamBlockInfo{.name = text_of(block, "name"),
                                                    .length = number_of(block, "length"),
                                                    .page_size = number_of(block, "page-size"),
                                                    .file_offset = number_of(block, "file-offset"),
                                                    .guest_address = number_of(block, "guest-address")});
    }
    if (text_of(body, "type") != "start" || side.empty() || start.uri.empty() || start.blocks.empty() != start.settle ||
        start.lanes == 0 || start.dead_peer.count() == 0 || !read_session(text_of(body, "session"), start.session)) {
        return std::unexpected(make_error(ErrorCode::protocol, "read", "start message", "a field is missing or wrong"));
    }
    return start;
}

json to_json(const Error& error) {
    return {{"code", static_cast<std::int32_t>(error.code)},
            {"operation", error.operation},
            {"object", error.object},
            {"peer", error.peer},
            {"native", error.native},
            {"reason", error.reason},
            {"remedy", error.remedy}};
}

Error error_from(const json& object) {
    if (!object.is_object()) {
        return make_error(ErrorCode::protocol, "read", "error object", "it is no object");
    }
    const auto code = object.find("code");
    const auto native = object.find("native");
    const auto number = code != object.end() && code->is_number_integer() ? code->get<std::int32_t>()
                                                                          : static_cast<std::int32_t>(ErrorCode::internal);
    const bool known = number > 0 && number <= static_cast<std::int32_t>(ErrorCode::internal);
    return Error{.code = known ? static_cast<ErrorCode>(number) : ErrorCode::internal,
                 .operation = text_of(object, "operation"),
                 .object = text_of(object, "object"),
                 .peer = text_of(object, "peer"),
                 .native = native != object.end() && native->is_number_integer() ? native->get<int>() : 0,
                 .reason = text_of(object, "reason"),
                 .remedy = text_of(object, "remedy")};
}

} // namespace pageferry::hypervisor
