#include "engine/candidates.h"

#include <utility>

namespace pageferry::engine {

Error none_left(const std::vector<Attempt>& attempts) {
    if (attempts.empty()) {
        return make_error(ErrorCode::invalid_argument, "migrate", "URIs", "there is no URI");
    }
    Error error = attempts.back().error;
    if (attempts.size() == 1) {
        return error;
    }
    // The number and the remedy belong to the last one: they come before what is said of the others.
    if (error.native != 0) {
        error.reason += " (native code " + std::to_string(std::exchange(error.native, 0)) + ")";
    }
    if (!error.remedy.empty()) {
        error.reason += "; " + std::exchange(error.remedy, {});
    }
    error.reason += "; tried before: ";
    for (std::size_t i = 0; i + 1 < attempts.size(); ++i) {
        const Error& earlier = attempts[i].error;
        error.reason += (i == 0 ? "" : "; ") + attempts[i].uri + ": " +
                        (earlier.reason.empty() ? std::string{name_of(earlier.code)} : earlier.reason);
    }
    return error;
}

bool another_may_do(const Error& error, bool peer_said) {
    switch (error.code) {
    case ErrorCode::permission:
    case ErrorCode::resources:
    case ErrorCode::unsupported:
    case ErrorCode::timed_out: return true;
    case ErrorCode::ok:
    case ErrorCode::again:
    case ErrorCode::cancelled:
    case ErrorCode::internal: return false;
    default: return !peer_said;
    }
}

} // namespace pageferry::engine
