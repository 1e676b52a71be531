#include "hypervisor/link/transport_report.h"

#include <nlohmann/json.hpp>

#include <limits>
#include <string_view>
#include <utility>

namespace pageferry::hypervisor {

using nlohmann::json;

namespace {

constexpr std::size_t longest_text = 2048; // bytes; a URI has at most 1024

// A URI comes from a user and has its own bound; anything else may be long. Half a character at the end is made good when the
// message is written.
std::string cut(const std::string& text) {
    return text.substr(0, longest_text / 4); // each byte that is no character becomes three
}

std::unexpected<Error> wrong(const char* what) {
    return std::unexpected{
        make_error(ErrorCode::protocol, "read", "transport report", std::string{what} + " is missing or wrong")};
}

// False: not there, no text, or too long.
bool read_text(const json& object, const char* key, std::string& text) {
    const auto found = object.find(key);
    if (found == object.end() || !found->is_string() || found->get_ref<const std::string&>().size() > longest_text) {
        return false;
    }
    text = found->get<std::string>();
    return true;
}

std::optional<std::size_t> read_number(const json& object, const char* key, std::size_t most) {
    const auto found = object.find(key);
    if (found == object.end() || !found->is_number_unsigned() || found->get<std::uint64_t>() > most) {
        return std::nullopt;
    }
    return found->get<std::size_t>();
}

json with_attempts(json object, const TransportReport& report) {
    object["attempts"] = to_json(report.attempts);
    return object;
}

} // namespace

json to_json(const std::vector<FailedTransport>& attempts) {
    json list = json::array();
    for (const auto& attempt : attempts) {
        list.push_back({{"uri", attempt.uri},
                        {"phase", cut(attempt.phase)},
                        {"reason", cut(attempt.reason)},
                        {"error-desc", cut(attempt.error_desc)}});
    }
    return list;
}

Result<std::vector<FailedTransport>> failed_transports_from(const json& list, std::size_t candidates) {
    if (!list.is_array() || list.size() > candidates) {
        return wrong("the list of attempts");
    }
    std::vector<FailedTransport> attempts;
    for (const json& entry : list) {
        FailedTransport attempt;
        if (!entry.is_object() || !read_text(entry, "uri", attempt.uri) || !read_text(entry, "phase", attempt.phase) ||
            !read_text(entry, "reason", attempt.reason) || !read_text(entry, "error-desc", attempt.error_desc)) {
            return wrong("an attempt");
        }
        attempts.push_back(std::move(attempt));
    }
    return attempts;
}

json to_json(const TransportReport& report) {
    json object{{"type", "transport"}};
    if (report.candidate) {
        object["candidate"] = *report.candidate;
        object["uri"] = report.uri;
        object["name"] = cut(report.name);
        object["connection"] = cut(report.connection);
        object["lanes"] = report.lanes;
    }
    return with_attempts(std::move(object), report);
}

Result<TransportReport> transport_report_from(const json& body, std::size_t candidates) {
    if (!body.is_object() || !body.contains("attempts")) {
        return wrong("the list of attempts");
    }
    TransportReport report;
    auto attempts = failed_transports_from(body["attempts"], candidates);
    if (!attempts) {
        return std::unexpected(std::move(attempts.error()));
    }
    report.attempts = std::move(*attempts);
    if (!body.contains("candidate")) {
        return report;
    }
    report.candidate = read_number(body, "candidate", candidates == 0 ? 0 : candidates - 1);
    const auto lanes = read_number(body, "lanes", std::numeric_limits<std::uint16_t>::max());
    if (!report.candidate || !lanes || !read_text(body, "uri", report.uri) || !read_text(body, "name", report.name) ||
        !read_text(body, "connection", report.connection)) {
        return wrong("a member of the transport that is used");
    }
    report.lanes = static_cast<unsigned>(*lanes);
    return report;
}

json shown(const TransportReport& report) {
    json object = json::object();
    if (report.candidate) {
        object = {{"uri", report.uri}, {"name", report.name}, {"connection", report.connection}, {"lanes", report.lanes}};
    }
    return with_attempts(std::move(object), report);
}

} // namespace pageferry::hypervisor
