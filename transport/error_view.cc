#include "transport/error_view.h"

#include <cstring>
#include <string_view>

namespace pageferry::transport {

namespace {

template <std::size_t N>
std::string text_of(const char (&field)[N]) {
    return std::string{field, ::strnlen(field, N)};
}

ErrorCode code_of(int status) {
    const bool known = status > PF_OK && status <= PF_INTERNAL;
    return known ? static_cast<ErrorCode>(status) : ErrorCode::internal;
}

} // namespace

pf_error empty_error() {
    pf_error error{};
    error.size = sizeof error;
    error.lane = PF_LANE_NONE;
    return error;
}

Error error_from(int status, const pf_error& filled, std::string operation, std::string object) {
    Error error;
    error.code = code_of(status);
    error.operation = filled.operation[0] != '\0' ? text_of(filled.operation) : std::move(operation);
    error.object = filled.object[0] != '\0' ? text_of(filled.object) : std::move(object);
    if (filled.lane != PF_LANE_NONE) {
        error.object += (error.object.empty() ? "" : ", ") + std::string{"lane "} + std::to_string(filled.lane);
    }
    error.peer = text_of(filled.peer);
    error.native = filled.native;
    error.reason = text_of(filled.reason);
    error.remedy = text_of(filled.remedy);
    if (error.reason.empty()) {
        error.reason = error.code == ErrorCode::internal && status != PF_INTERNAL
                           ? "the transport answered the unknown status " + std::to_string(status)
                           : std::string{name_of(error.code)};
    }
    return error;
}

} // namespace pageferry::transport
