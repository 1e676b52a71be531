#include "transport/plugin/answers.h"

#include <algorithm>
#include <cstring>

namespace pageferry::plugin {

int missing(pf_error* error, const char* operation) {
    return answer(error,
                  Fault{.error = make_error(ErrorCode::invalid_argument, operation, {}, "a null pointer where none may be")});
}

int done(pf_error* error, Outcome<void> outcome) {
    return outcome ? PF_OK : answer(error, outcome.error());
}

int counted(pf_error* error, Outcome<std::size_t> outcome, size_t* count) {
    *count = outcome.value_or(0);
    if (!outcome) {
        return answer(error, outcome.error());
    }
    return *outcome > 0 ? PF_OK : PF_AGAIN;
}

int copy_out(const std::string& text, char* buffer, std::size_t capacity) {
    if (buffer == nullptr || capacity == 0) {
        return PF_INVALID;
    }
    const std::size_t length = std::min(text.size(), capacity - 1);
    std::memcpy(buffer, text.data(), length);
    buffer[length] = '\0';
    return PF_OK;
}

} // namespace pageferry::plugin
