// From what a plugin's own code answers to what the C ABI answers.
//
// Threads: any; no state.
#pragma once

#include "transport/plugin/fault.h"

#include <cstddef>
#include <exception>
#include <new>
#include <string>

namespace pageferry::plugin {

// What the standard library throws becomes a status.
template <class Body>
int guarded(pf_error* error, const char* operation, Body body) noexcept {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        return answer(error, Fault{.error = make_error(ErrorCode::resources, operation, {}, "out of memory")});
    } catch (const std::exception& thrown) {
        return answer(error, Fault{.error = make_error(ErrorCode::internal, operation, {}, thrown.what())});
    }
}

int missing(pf_error* error, const char* operation); // a null pointer where none may be
int done(pf_error* error, Outcome<void> outcome);
// Of calls that count: a number, or PF_AGAIN for none.
int counted(pf_error* error, Outcome<std::size_t> outcome, size_t* count);
int copy_out(const std::string& text, char* buffer, std::size_t capacity);

} // namespace pageferry::plugin
