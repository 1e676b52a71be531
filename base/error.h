// What an operation that can fail gives back.
//
// Errors are values. Each one says what was tried (operation), on what (object), with whom (peer), what the kernel or the
// library answered (native), why in words (reason) and what a person can do about it (remedy). No exception crosses a folder.
//
// Threads: plain values, no shared state.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>

namespace pageferry {

// The same numbers as enum pf_status in transport/abi/pageferry_transport.h; a unit test holds the two together.
enum class ErrorCode : int32_t {
    ok = 0,
    again = 1,            // queue full, or nothing there yet: not a failure
    invalid_argument = 2, // bad input; nothing was changed
    not_found = 3,        // no such host, scheme, block, file
    refused = 4,          // nobody listens, or the peer said no
    unreachable = 5,      // no route, host absent
    timed_out = 6,        // a deadline passed
    cancelled = 7,        // our own side called it off
    closed = 8,           // the peer went away
    protocol = 9,         // the peer sent something that is not the protocol
    version = 10,         // the peer speaks versions we do not
    permission = 11,      // the kernel or the peer forbids it
    resources = 12,       // memory, descriptors, locked memory, space
    in_use = 13,          // address or object taken
    unsupported = 14,     // this host, kernel or transport cannot do it
    state = 15,           // not allowed in the present state
    io = 16,              // any other error of the kernel or a library
    internal = 17,        // a defect of Pageferry
};

std::string_view name_of(ErrorCode code);

struct Error {
    ErrorCode code = ErrorCode::internal;
    std::string operation; // "connect", "mmap", "UFFDIO_REGISTER"
    std::string object;    // "tcp:host:4444", "RAM block pc.ram"
    std::string peer;      // address of the other side, empty where there is none
    int native = 0;        // errno or the library's own code, 0 where there is none
    std::string reason;    // one sentence, no trailing full stop
    std::string remedy;    // what to do, empty where nothing can be said

    // "connect tcp:host:4444: Connection refused (errno 111); start the destination first"
    [[nodiscard]] std::string to_string() const;
};

template <class T>
using Result = std::expected<T, Error>;

// An error from errno (captured by the caller before anything else can change it).
Error errno_error(int number, std::string operation, std::string object = {}, std::string remedy = {});

// An error with words of our own.
Error make_error(ErrorCode code, std::string operation, std::string object, std::string reason, std::string remedy = {});

} // namespace pageferry

// Leaves the function with the error of an expression that gives Result<void>, if it has one.
#define PAGEFERRY_TRY(expression)                                                                                                \
    do {                                                                                                                         \
        if (auto pageferry_result = (expression); !pageferry_result) {                                                           \
            return std::unexpected(std::move(pageferry_result.error()));                                                         \
        }                                                                                                                        \
    } while (false)
