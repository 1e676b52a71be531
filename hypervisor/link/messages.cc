#include "hypervisor/link/messages.h"

#include <charconv>
#include <limits>

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
            {"uris", start.uris},
            {"session", session_text(start.session)},
            {"lanes", start.lanes},
            {"dead-peer-ms", static_cast<std::uint64_t>(start.dead_peer.count())},
            {"connect-timeout-ms", static_cast<std::uint64_t>(start.connect_timeout.count())},
            {"pause-before-switchover", start.pause_before_switchover},
            {"postcopy", start.postcopy},
            {"again", start.again},
            {"status", std::string{statemachine::name_of(start.status)}},
            {"epoch", start.epoch},
            {"guest-runs", start.guest_runs},
            {"transport-path", start.transport_path},
            {"userfaultfd", start.has_userfaultfd},
            {"pagemap", start.has_pagemap},
            {"clear-refs", start.has_clear_refs},
            {"discards", start.has_discards},
            {"page-map", start.has_page_map},
            {"faults", start.faults},
            {"vcpu-threads", start.vcpu_threads},
            {"no-pinning", start.no_pinning},
            {"blocks", std::move(blocks)}};
}

namespace {

// Reads members that must be there, of the right kind and within bounds; one that is not makes it all wrong.
class StrictReader {
public:
    explicit StrictReader(const json& object) : object_(object), good_(object.is_object()) {}
    [[nodiscard]] bool good() const { return good_; }

    std::string text(const char* key) {
        const json* found = find(key, json::value_t::string);
        return found != nullptr ? found->get<std::string>() : std::string{};
    }
    bool flag(const char* key) {
        const json* found = find(key, json::value_t::boolean);
        return found != nullptr && found->get<bool>();
    }
    std::uint64_t number(const char* key, std::uint64_t least, std::uint64_t most) {
        const json* found = find(key, json::value_t::number_unsigned);
        const std::uint64_t value = found != nullptr ? found->get<std::uint64_t>() : least;
        good_ = good_ && value >= least && value <= most;
        return value;
    }
    const json& list(const char* key) {
        static const json empty = json::array();
        const json* found = find(key, json::value_t::array);
        return found != nullptr ? *found : empty;
    }
    void must(bool holds) { good_ = good_ && holds; }

private:
    const json* find(const char* key, json::value_t kind) {
        const auto found = good_ ? object_.find(key) : object_.end();
        good_ = good_ && found != object_.end() && found->type() == kind;
        return good_ ? &*found : nullptr;
    }
    const json& object_;
    bool good_;
};

std::chrono::milliseconds time_in(StrictReader& reader, const char* key) {
    return std::chrono::milliseconds{reader.number(key, 1, std::numeric_limits<std::int32_t>::max())};
}

} // namespace

Result<MoverStart> mover_start_from(const json& body) {
    StrictReader reader{body};
    MoverStart start;
    reader.must(reader.text("type") == "start");
    const std::string side = reader.text("side");
    start.side =
        side == statemachine::name_of(statemachine::Side::source) ? statemachine::Side::source : statemachine::Side::destination;
    reader.must(side == statemachine::name_of(start.side));
    start.uris = read_uris(body, "uris", most_candidates);
    reader.must(!start.uris.empty() && read_session(reader.text("session"), start.session));
    start.lanes = static_cast<unsigned>(reader.number("lanes", 1, std::numeric_limits<std::uint16_t>::max()));
    start.dead_peer = time_in(reader, "dead-peer-ms");
    start.connect_timeout = time_in(reader, "connect-timeout-ms");
    start.postcopy = reader.flag("postcopy");
    start.again = reader.flag("again");
    const auto status = statemachine::status_from_name(reader.text("status"));
    reader.must(status.has_value());
    start.status = status.value_or(statemachine::Status::none);
    start.epoch = static_cast<std::uint32_t>(reader.number("epoch", 0, std::numeric_limits<std::uint32_t>::max()));
    start.guest_runs = reader.flag("guest-runs");
    start.pause_before_switchover = reader.flag("pause-before-switchover");
    start.has_userfaultfd = reader.flag("userfaultfd");
    start.has_pagemap = reader.flag("pagemap");
    start.has_clear_refs = reader.flag("clear-refs");
    start.has_discards = reader.flag("discards");
    start.has_page_map = reader.flag("page-map");
    start.faults = static_cast<std::uint32_t>(reader.number("faults", 0, most_faults));
    start.no_pinning = reader.text("no-pinning");
    for (const auto& thread : reader.list("vcpu-threads")) {
        const bool fits = thread.is_number_unsigned() &&
                          thread.get<std::uint64_t>() <= std::numeric_limits<std::uint32_t>::max() &&
                          start.vcpu_threads.size() < most_vcpus;
        reader.must(fits);
        start.vcpu_threads.push_back(fits ? thread.get<std::uint32_t>() : 0);
    }
    for (const auto& directory : reader.list("transport-path")) {
        reader.must(directory.is_string());
        start.transport_path.push_back(directory.is_string() ? directory.get<std::string>() : std::string{});
    }
    constexpr std::uint64_t any = std::numeric_limits<std::uint64_t>::max();
    for (const auto& entry : reader.list("blocks")) {
        StrictReader block{entry};
        start.blocks.push_back(memory::RamBlockInfo{.name = block.text("name"),
                                                    .length = block.number("length", 1, any),
                                                    .page_size = block.number("page-size", 0, any),
                                                    .file_offset = block.number("file-offset", 0, any),
                                                    .guest_address = block.number("guest-address", 0, any)});
        reader.must(block.good() && !start.blocks.back().name.empty());
    }
    reader.must(!start.blocks.empty());
    if (!reader.good()) {
        return std::unexpected(make_error(ErrorCode::protocol, "read", "start message", "a field is missing or wrong"));
    }
    return start;
}

std::vector<std::string> read_uris(const json& body, const char* key, std::size_t most) {
    constexpr std::size_t longest = 1024; // bytes, see transport/uri.cc
    const auto found = body.is_object() ? body.find(key) : body.end();
    if (found == body.end() || !found->is_array() || found->size() > most) {
        return {};
    }
    std::vector<std::string> uris;
    for (const json& uri : *found) {
        if (!uri.is_string() || uri.get_ref<const std::string&>().empty() || uri.get_ref<const std::string&>().size() > longest) {
            return {};
        }
        uris.push_back(uri.get<std::string>());
    }
    return uris;
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
    // What does not fit is not cut off to something else.
    const auto integer = [&object](const char* key, std::int32_t otherwise) {
        const auto found = object.find(key);
        const bool fits = found != object.end() && found->is_number_integer() &&
                          (found->is_number_unsigned() ? found->get<std::uint64_t>() <= std::numeric_limits<std::int32_t>::max()
                                                       : found->get<std::int64_t>() >= std::numeric_limits<std::int32_t>::min());
        return fits ? found->get<std::int32_t>() : otherwise;
    };
    const std::int32_t number = integer("code", static_cast<std::int32_t>(ErrorCode::internal));
    const bool known = number > 0 && number <= static_cast<std::int32_t>(ErrorCode::internal);
    return Error{.code = known ? static_cast<ErrorCode>(number) : ErrorCode::internal,
                 .operation = text_of(object, "operation"),
                 .object = text_of(object, "object"),
                 .peer = text_of(object, "peer"),
                 .native = integer("native", 0),
                 .reason = text_of(object, "reason"),
                 .remedy = text_of(object, "remedy")};
}

} // namespace pageferry::hypervisor
