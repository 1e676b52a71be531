#include "base/error.h"

#include "transport/abi/pageferry_transport.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <set>
#include <utility>

namespace pageferry {
namespace {

// A code that crosses the C ABI keeps its meaning only while the numbers are the same.
constexpr bool same(ErrorCode code, pf_status status) {
    return static_cast<int>(code) == static_cast<int>(status);
}
static_assert(same(ErrorCode::ok, PF_OK));
static_assert(same(ErrorCode::again, PF_AGAIN));
static_assert(same(ErrorCode::invalid_argument, PF_INVALID));
static_assert(same(ErrorCode::not_found, PF_NOT_FOUND));
static_assert(same(ErrorCode::refused, PF_REFUSED));
static_assert(same(ErrorCode::unreachable, PF_UNREACHABLE));
static_assert(same(ErrorCode::timed_out, PF_TIMED_OUT));
static_assert(same(ErrorCode::cancelled, PF_CANCELLED));
static_assert(same(ErrorCode::closed, PF_CLOSED));
static_assert(same(ErrorCode::protocol, PF_PROTOCOL));
static_assert(same(ErrorCode::version, PF_VERSION));
static_assert(same(ErrorCode::permission, PF_PERMISSION));
static_assert(same(ErrorCode::resources, PF_RESOURCES));
static_assert(same(ErrorCode::in_use, PF_IN_USE));
static_assert(same(ErrorCode::unsupported, PF_UNSUPPORTED));
static_assert(same(ErrorCode::state, PF_STATE));
static_assert(same(ErrorCode::io, PF_IO));
static_assert(same(ErrorCode::internal, PF_INTERNAL));

TEST(ErrorCode, EveryCodeHasANameOfItsOwn) {
    std::set<std::string_view> names;
    for (int i = PF_OK; i <= PF_INTERNAL; ++i) {
        names.insert(name_of(static_cast<ErrorCode>(i)));
    }
    EXPECT_EQ(names.size(), std::size_t{PF_INTERNAL} + 1);
    EXPECT_FALSE(names.contains("unknown error"));
    EXPECT_EQ(name_of(static_cast<ErrorCode>(99)), "unknown error");
}

TEST(Error, SaysOperationObjectPeerReasonCodeAndRemedy) {
    Error error = errno_error(ECONNREFUSED, "connect", "tcp:host:4444", "start the destination first");
    error.peer = "192.0.2.7:4444";
    EXPECT_EQ(error.code, ErrorCode::refused);
    EXPECT_EQ(error.to_string(),
              "connect tcp:host:4444 (peer 192.0.2.7:4444): Connection refused (native code 111); start the destination first");
}

TEST(Error, LeavesOutWhatItDoesNotHave) {
    EXPECT_EQ(make_error(ErrorCode::closed, "", "", "").to_string(), ": closed by peer");
    EXPECT_EQ(make_error(ErrorCode::state, "migrate", "", "no migration is under way").to_string(),
              "migrate: no migration is under way");
}

TEST(Error, ErrnoBecomesACode) {
    const std::pair<int, ErrorCode> pairs[] = {
        {EAGAIN, ErrorCode::again},        {EINVAL, ErrorCode::invalid_argument},
        {ENOENT, ErrorCode::not_found},    {EHOSTUNREACH, ErrorCode::unreachable},
        {ETIMEDOUT, ErrorCode::timed_out}, {ECANCELED, ErrorCode::cancelled},
        {ECONNRESET, ErrorCode::closed},   {EPERM, ErrorCode::permission},
        {EACCES, ErrorCode::permission},   {ENOMEM, ErrorCode::resources},
        {ENOSPC, ErrorCode::resources},    {EADDRINUSE, ErrorCode::in_use},
        {ENOSYS, ErrorCode::unsupported},  {EIO, ErrorCode::io},
    };
    for (const auto& [number, code] : pairs) {
        const Error error = errno_error(number, "test");
        EXPECT_EQ(error.code, code) << number;
        EXPECT_EQ(error.native, number);
        EXPECT_FALSE(error.reason.empty());
    }
    EXPECT_EQ(errno_error(987654, "test").reason, "unknown errno");
}

} // namespace
} // namespace pageferry
