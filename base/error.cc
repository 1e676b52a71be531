#include "base/error.h"

#include <cerrno>
#include <cstring>

namespace pageferry {

std::string_view name_of(ErrorCode code) {
    switch (code) {
    case ErrorCode::ok: return "ok";
    case ErrorCode::again: return "again";
    case ErrorCode::invalid_argument: return "invalid argument";
    case ErrorCode::not_found: return "not found";
    case ErrorCode::refused: return "refused";
    case ErrorCode::unreachable: return "unreachable";
    case ErrorCode::timed_out: return "timed out";
    case ErrorCode::cancelled: return "cancelled";
    case ErrorCode::closed: return "closed by peer";
    case ErrorCode::protocol: return "protocol error";
    case ErrorCode::version: return "version mismatch";
    case ErrorCode::permission: return "permission denied";
    case ErrorCode::resources: return "out of resources";
    case ErrorCode::in_use: return "in use";
    case ErrorCode::unsupported: return "unsupported";
    case ErrorCode::state: return "wrong state";
    case ErrorCode::io: return "input/output error";
    case ErrorCode::internal: return "internal error";
    }
    return "unknown error";
}

std::string Error::to_string() const {
    std::string text = operation;
    if (!object.empty()) {
        text += text.empty() ? object : " " + object;
    }
    if (!peer.empty()) {
        text += " (peer " + peer + ")";
    }
    text += ": ";
    text += reason.empty() ? std::string{name_of(code)} : reason;
    if (native != 0) {
        text += " (native code " + std::to_string(native) + ")";
    }
    if (!remedy.empty()) {
        text += "; " + remedy;
    }
    return text;
}

namespace {

ErrorCode code_of_errno(int number) {
    switch (number) {
    case EAGAIN: return ErrorCode::again;
    case EINVAL:
    case ENAMETOOLONG: return ErrorCode::invalid_argument;
    case ENOENT: return ErrorCode::not_found;
    case ECONNREFUSED: return ErrorCode::refused;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case EADDRNOTAVAIL: return ErrorCode::unreachable;
    case ETIMEDOUT: return ErrorCode::timed_out;
    case ECANCELED: return ErrorCode::cancelled;
    case ECONNRESET:
    case EPIPE: return ErrorCode::closed;
    case EPERM:
    case EACCES: return ErrorCode::permission;
    case ENOMEM:
    case ENOSPC:
    case EMFILE:
    case ENFILE: return ErrorCode::resources;
    case EADDRINUSE:
    case EBUSY: return ErrorCode::in_use;
    case ENOSYS:
    case EOPNOTSUPP: return ErrorCode::unsupported;
    default: return ErrorCode::io;
    }
}

} // namespace

Error errno_error(int number, std::string operation, std::string object, std::string remedy) {
    // strerrordesc_np: the untranslated text, without strerror's shared buffer.
    const char* text = strerrordesc_np(number);
    return Error{.code = code_of_errno(number),
                 .operation = std::move(operation),
                 .object = std::move(object),
                 .peer = {},
                 .native = number,
                 .reason = text != nullptr ? text : "unknown errno",
                 .remedy = std::move(remedy)};
}

Error make_error(ErrorCode code, std::string operation, std::string object, std::string reason, std::string remedy) {
    return Error{.code = code,
                 .operation = std::move(operation),
                 .object = std::move(object),
                 .peer = {},
                 .native = 0,
                 .reason = std::move(reason),
                 .remedy = std::move(remedy)};
}

} // namespace pageferry
