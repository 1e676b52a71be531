// Which transport carries a migration, and which could not: told by the mover, shown to users as `x-pageferry-transport` in
// query-migrate and in the event PAGEFERRY_TRANSPORT.
//
// Pure; any thread.
#pragma once

#include "base/error.h"

#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace pageferry::hypervisor {

struct FailedTransport {
    std::string uri;
    std::string phase;      // how far it came
    std::string reason;     // in one sentence
    std::string error_desc; // with all that is known, and the remedy
};

struct TransportReport {
    std::optional<std::size_t> candidate; // its place in the list the mover was started with; empty: none carries it yet
    std::string uri;
    std::string name;
    std::string connection;
    unsigned lanes = 0;
    std::vector<FailedTransport> attempts;

    [[nodiscard]] bool empty() const { return !candidate && attempts.empty(); }
};

// The mover's message. Texts are cut to what the reader takes.
nlohmann::json to_json(const TransportReport& report);
// protocol: a member is missing, of another type or beyond its bounds; candidates: how many the mover was given.
Result<TransportReport> transport_report_from(const nlohmann::json& body, std::size_t candidates);

// The attempts alone, as a member of another message.
nlohmann::json to_json(const std::vector<FailedTransport>& attempts);
Result<std::vector<FailedTransport>> failed_transports_from(const nlohmann::json& list, std::size_t candidates);

// What users see: {"uri", "name", "connection", "lanes"} once there is one, and "attempts": [{"uri", "phase", "reason",
// "error-desc"}].
nlohmann::json shown(const TransportReport& report);

} // namespace pageferry::hypervisor
