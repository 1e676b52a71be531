#include "cli/settings.h"

#include "cli/follow.h"
#include "cli/units.h"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace pageferry::cli {

namespace {

using nlohmann::json;

constexpr const char* recover_attempts = "x-pageferry-recover-attempts";
constexpr const char* recover_backoff = "x-pageferry-recover-backoff";
constexpr const char* recover_time_limit = "x-pageferry-recover-time-limit";

std::optional<bool> on_off(std::string_view text) {
    if (text == "on" || text == "true" || text == "yes") {
        return true;
    }
    if (text == "off" || text == "false" || text == "no") {
        return false;
    }
    return std::nullopt;
}

Error bad(std::string_view what, std::string_view text, std::string reason, std::string remedy) {
    return make_error(ErrorCode::invalid_argument, std::string{what}, std::string{text}, std::move(reason), std::move(remedy));
}

bool capability_on(const json& list, std::string_view name) {
    return std::ranges::any_of(list, [&](const json& entry) {
        return entry.is_object() && entry.contains("capability") && entry["capability"] == name && entry.contains("state") &&
               entry["state"] == true;
    });
}

auto deadline() {
    return std::chrono::steady_clock::now() + answer_time;
}

} // namespace

Result<std::pair<std::string, std::string>> parse_assignment(std::string_view text) {
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos || equals == 0) {
        return std::unexpected(bad("read --parameter", text, "The form is wrong", "write NAME=VALUE"));
    }
    return std::pair{std::string{text.substr(0, equals)}, std::string{text.substr(equals + 1)}};
}

Result<std::pair<std::string, bool>> parse_capability(std::string_view text) {
    const std::size_t equals = text.find('=');
    const auto state = equals == std::string_view::npos ? std::optional{true} : on_off(text.substr(equals + 1));
    if (text.empty() || equals == 0 || !state) {
        return std::unexpected(bad("read --capability", text, "The form is wrong", "write NAME=on or NAME=off"));
    }
    return std::pair{std::string{text.substr(0, equals)}, *state};
}

Result<json> parameter_value(std::string_view name, std::string_view text, const json& present) {
    const bool known = !present.is_null();
    if (present.is_string()) {
        return json(std::string{text});
    }
    if (!known || present.is_boolean()) {
        if (const auto state = on_off(text)) {
            return json(*state);
        }
        if (known) {
            return std::unexpected(
                bad("read --parameter", name, "This parameter is on or off", "write " + std::string{name} + "=on"));
        }
    }
    if (!known || present.is_number()) {
        if (const auto number = parse_size(text)) {
            return json(*number);
        }
        if (known) {
            return std::unexpected(bad("read --parameter", name, "This parameter is a number",
                                       "write " + std::string{name} + "=NUMBER, with K, M or G behind it where it is a size"));
        }
    }
    if (known) {
        json value = json::parse(text, nullptr, false); // lists and objects are written as JSON
        if (value.is_discarded()) {
            return std::unexpected(bad("read --parameter", name, "This parameter is a list or object", "write it as JSON"));
        }
        return value;
    }
    return json(std::string{text});
}

Result<json> capability_arguments(const Settings& settings) {
    json list = json::array();
    for (const std::string& text : settings.capabilities) {
        const auto capability = parse_capability(text);
        if (!capability) {
            return std::unexpected(capability.error());
        }
        list.push_back({{"capability", capability->first}, {"state", capability->second}});
    }
    return list.empty() ? json::object() : json{{"capabilities", std::move(list)}};
}

Result<json> parameter_arguments(const Settings& settings, const json& present) {
    json arguments = json::object();
    for (const std::string& text : settings.parameters) {
        const auto assignment = parse_assignment(text);
        if (!assignment) {
            return std::unexpected(assignment.error());
        }
        const auto& [name, value_text] = *assignment;
        auto value = parameter_value(name, value_text, present.is_object() && present.contains(name) ? present[name] : json{});
        if (!value) {
            return std::unexpected(std::move(value.error()));
        }
        arguments[name] = std::move(*value);
    }
    if (settings.downtime_limit) {
        arguments["downtime-limit"] = *settings.downtime_limit;
    }
    if (settings.max_bandwidth) {
        arguments["max-bandwidth"] = *settings.max_bandwidth;
    }
    if (settings.lanes) {
        arguments["multifd-channels"] = *settings.lanes;
    }
    if (settings.rdma) {
        arguments["x-pageferry-rdma"] = *settings.rdma;
    }
    if (settings.max_postcopy_bandwidth) {
        arguments["max-postcopy-bandwidth"] = *settings.max_postcopy_bandwidth;
    }
    if (settings.recover_attempts) {
        arguments[recover_attempts] = *settings.recover_attempts;
    }
    if (settings.recover_backoff) {
        arguments[recover_backoff] = *settings.recover_backoff;
    }
    if (settings.recover_time_limit) {
        arguments[recover_time_limit] = *settings.recover_time_limit;
    }
    return arguments;
}

Result<void> apply(monitor::QmpClient& client, const Settings& settings) {
    const auto capabilities = capability_arguments(settings);
    if (!capabilities) {
        return std::unexpected(capabilities.error());
    }
    json present;
    if (!settings.parameters.empty()) {
        auto answer = client.execute("query-migrate-parameters", nullptr, deadline());
        if (!answer) {
            return std::unexpected(std::move(answer.error()));
        }
        present = std::move(*answer);
    }
    const auto parameters = parameter_arguments(settings, present);
    if (!parameters) {
        return std::unexpected(parameters.error());
    }
    // Both are known to be well-formed before the first is sent.
    if (!capabilities->empty()) {
        if (auto answer = client.execute("migrate-set-capabilities", *capabilities, deadline()); !answer) {
            return std::unexpected(std::move(answer.error()));
        }
    }
    if (!parameters->empty()) {
        if (auto answer = client.execute("migrate-set-parameters", *parameters, deadline()); !answer) {
            return std::unexpected(std::move(answer.error()));
        }
    }
    return {};
}

Result<bool> enable_events(monitor::QmpClient& client) {
    const json arguments{{"capabilities", json::array({{{"capability", "events"}, {"state", true}}})}};
    auto answer = client.execute("migrate-set-capabilities", arguments, deadline());
    if (answer) {
        return true;
    }
    if (answer.error().code != ErrorCode::refused) {
        return std::unexpected(std::move(answer.error()));
    }
    // Refused while a migration runs, when they may have been on all along.
    auto list = client.execute("query-migrate-capabilities", nullptr, deadline());
    return list && list->is_array() && capability_on(*list, "events");
}

Result<AutomaticRecovery> automatic_recovery(monitor::QmpClient& client) {
    const auto parameters = client.execute("query-migrate-parameters", nullptr, deadline());
    if (!parameters) {
        // One that does not know the command does not know such recovery.
        return parameters.error().code == ErrorCode::refused ? Result<AutomaticRecovery>{AutomaticRecovery{}}
                                                             : std::unexpected(parameters.error());
    }
    const auto number = [&](const char* name) -> std::uint64_t {
        if (!parameters->is_object()) {
            return 0;
        }
        const auto value = parameters->find(name);
        return value != parameters->end() && value->is_number_unsigned() ? value->get<std::uint64_t>() : 0;
    };
    const auto time = [&](const char* name) {
        constexpr std::uint64_t longest = 1ULL << 40U; // 35 years
        return std::chrono::milliseconds{static_cast<std::int64_t>(std::min(number(name), longest))};
    };
    return AutomaticRecovery{
        .attempts = number(recover_attempts), .backoff = time(recover_backoff), .time_limit = time(recover_time_limit)};
}

bool mentions_capability(const Settings& settings, std::string_view name) {
    return std::ranges::any_of(settings.capabilities, [&](const std::string& text) {
        const auto capability = parse_capability(text);
        return capability && capability->first == name;
    });
}

std::optional<unsigned> lanes_in_use(monitor::QmpClient& client) {
    const auto list = client.execute("query-migrate-capabilities", nullptr, deadline());
    const auto parameters = client.execute("query-migrate-parameters", nullptr, deadline());
    if (!list || !list->is_array() || !parameters || !parameters->is_object()) {
        return std::nullopt;
    }
    // Pageferry always moves pages over this many lanes; QEMU only with its multifd.
    const bool pageferry =
        std::ranges::any_of(parameters->items(), [](const auto& item) { return item.key().starts_with("x-pageferry-"); });
    if (!pageferry && !capability_on(*list, "multifd")) {
        return 1;
    }
    const auto channels = parameters->find("multifd-channels");
    return channels != parameters->end() && channels->is_number_unsigned() ? std::optional{channels->get<unsigned>()}
                                                                           : std::nullopt;
}

} // namespace pageferry::cli
