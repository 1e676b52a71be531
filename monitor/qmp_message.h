// QMP messages as QEMU words them: parsing without exceptions, and answers in QEMU's layout.
//
// Pure; any thread.
#pragma once

#include "base/error.h"

#include <nlohmann/json_fwd.hpp>

#include <expected>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pageferry::monitor {

struct QmpError {
    std::string error_class = "GenericError";
    std::string desc;
};

using QmpResult = std::expected<nlohmann::json, QmpError>; // the value of "return"

// GenericError. An error without an operation is QEMU's own wording: its reason alone; any other is told whole.
QmpError qmp_error(const Error& error);

// What QEMU sent. Nothing when it is not JSON.
std::optional<nlohmann::json> parse_json(std::string_view text);

// The members of an object's outermost level, keys and values as they stand there, without the rest being read: QEMU's answers
// may be long, and whose they are is all that matters of most. For text that JsonStream has cut; nothing where it is no object.
std::optional<std::vector<std::pair<std::string_view, std::string_view>>> members_of(std::string_view text);

// The same message in the fewest bytes, for text that parse_request() takes: QEMU reads its monitors byte by byte, with half a
// dozen system calls for each.
std::string without_space(std::string_view text);

// What a client sent, one message as JsonStream cuts it, in QEMU's dialect (strings may be in single quotes, no key twice). The
// error is QEMU's text, "JSON parse error, expecting value" and the like.
std::expected<nlohmann::json, std::string> parse_request(std::string_view text);

// QEMU's layout: ", " and ": " between, non-ASCII escaped; pretty: indented by 4. Never fails: invalid UTF-8 is replaced.
std::string to_text(const nlohmann::json& value, bool pretty = false);

// A whole answer with its line end; id may be null for none.
std::string answer_line(const QmpResult& result, const nlohmann::json* id, bool pretty = false);
// {"timestamp": ..., "event": name, "data": data} with the time of now and a line end.
std::string event_line(std::string_view name, const nlohmann::json& data, bool pretty = false);

} // namespace pageferry::monitor
