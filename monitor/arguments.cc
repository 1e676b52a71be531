#include "monitor/arguments.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <utility>

namespace pageferry::monitor {

using nlohmann::json;

std::unexpected<Error> refuse_with(std::string text) {
    Error error;
    error.code = ErrorCode::invalid_argument;
    error.reason = std::move(text);
    return std::unexpected{std::move(error)};
}

Arguments::Arguments(const nlohmann::json& object, std::string path) : object_(object), path_(std::move(path)) {
    if (!object_.is_object()) {
        fail("Invalid parameter type for '" + path_ + "', expected: object");
    }
}

void Arguments::fail(std::string text) {
    if (fault_.empty()) {
        fault_ = std::move(text);
    }
}

std::string Arguments::full(std::string_view name) const {
    return path_.empty() ? std::string{name} : path_ + "." + std::string{name};
}

void Arguments::wrong_type(std::string_view name, std::string_view expected) {
    fail("Invalid parameter type for '" + full(name) + "', expected: " + std::string{expected});
}

const json* Arguments::member(std::string_view name) {
    asked_.emplace_back(name);
    if (!good()) {
        return nullptr;
    }
    const auto found = object_.find(std::string{name});
    return found == object_.end() ? nullptr : &*found;
}

const json* Arguments::required(std::string_view name) {
    const json* const found = member(name);
    if (found == nullptr) {
        fail("Parameter '" + full(name) + "' is missing");
    }
    return found;
}

std::optional<std::string> Arguments::string(std::string_view name) {
    const json* const found = member(name);
    if (found == nullptr) {
        return std::nullopt;
    }
    if (!found->is_string()) {
        wrong_type(name, "string");
        return std::nullopt;
    }
    return found->get_ref<const std::string&>();
}

std::optional<bool> Arguments::boolean(std::string_view name) {
    const json* const found = member(name);
    if (found == nullptr) {
        return std::nullopt;
    }
    if (!found->is_boolean()) {
        wrong_type(name, "boolean");
        return std::nullopt;
    }
    return found->get<bool>();
}

std::optional<std::uint64_t> Arguments::unsigned_integer(std::string_view name) {
    const json* const found = member(name);
    if (found == nullptr) {
        return std::nullopt;
    }
    if (found->is_number_unsigned()) {
        return found->get<std::uint64_t>();
    }
    if (found->is_number_integer()) {
        return static_cast<std::uint64_t>(found->get<std::int64_t>());
    }
    fail("Parameter '" + full(name) + "' expects uint64");
    return std::nullopt;
}

const json* Arguments::array(std::string_view name) {
    const json* const found = member(name);
    if (found != nullptr && !found->is_array()) {
        wrong_type(name, "array");
        return nullptr;
    }
    return found;
}

const json* Arguments::any(std::string_view name) {
    return member(name);
}

std::string Arguments::required_string(std::string_view name) {
    return required(name) == nullptr ? std::string{} : string(name).value_or("");
}

bool Arguments::required_boolean(std::string_view name) {
    return required(name) != nullptr && boolean(name).value_or(false);
}

const json* Arguments::required_array(std::string_view name) {
    return required(name) == nullptr ? nullptr : array(name);
}

const json* Arguments::required_object(std::string_view name) {
    const json* const found = required(name);
    if (found != nullptr && !found->is_object()) {
        wrong_type(name, "object");
        return nullptr;
    }
    return found;
}

std::string Arguments::required_enum(std::string_view name, std::span<const std::string_view> values) {
    std::string value = required_string(name);
    if (good() && std::ranges::find(values, value) == values.end()) {
        // QEMU gives the bare name here.
        fail("Parameter '" + std::string{name} + "' does not accept value '" + value + "'");
    }
    return value;
}

Result<void> Arguments::finish() const {
    if (!good()) {
        return refuse_with(fault_);
    }
    for (const auto& [name, value] : object_.items()) {
        if (std::ranges::find(asked_, name) == asked_.end()) {
            return refuse_with("Parameter '" + full(name) + "' is unexpected");
        }
    }
    return {};
}

} // namespace pageferry::monitor
