// What a stranger may send as private data: any bytes are refused in words, or are a request that encodes to the same bytes; and
// any bytes of a listener are no verdict, or one that can be shown to people.
#include "rdma/handshake.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

namespace {

using namespace pageferry;
using namespace pageferry::rdma;

void check(bool good) {
    if (!good) {
        std::abort();
    }
}

void try_request(std::span<const std::byte> in) {
    const auto request = decode_request(in);
    if (!request) {
        const Error& error = request.error();
        check((error.code == ErrorCode::protocol || error.code == ErrorCode::version) && !error.reason.empty());
        return;
    }
    check(request->lanes >= 1 && request->lanes <= plugin::max_lanes && request->index < request->lanes);
    check(request->lowest <= highest_version && request->highest >= lowest_version);
    const auto again = encode(*request);
    const auto same = [&](std::size_t from, std::size_t to) {
        return std::ranges::equal(std::span{again}.subspan(from, to - from), in.subspan(from, to - from));
    };
    check(same(0, 13) && same(16, 36) && same(40, request_bytes)); // the rest is reserved
}

void try_verdict(std::span<const std::byte> in) {
    const auto verdict = decode_verdict(in);
    if (!verdict) {
        return;
    }
    check(verdict->text.size() <= in.size() - verdict_bytes);
    check(std::ranges::all_of(verdict->text, [](char letter) { return letter >= ' ' && letter <= '~'; }));
    const VerdictBytes again = encode_verdict(verdict->status, verdict->text);
    const auto third = decode_verdict(std::span{again.bytes}.first(again.length));
    check(third && third->status == verdict->status && verdict->text.starts_with(third->text));
}

// With the first bytes that the fuzzer would take long to find.
std::vector<std::byte> helped(std::span<const std::byte> in, std::span<const std::byte> first) {
    std::vector<std::byte> made{in.begin(), in.end()};
    std::ranges::copy(first.first(std::min(first.size(), made.size())), made.begin());
    return made;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto in = std::as_bytes(std::span{data, size});
    try_request(in);
    try_verdict(in);
    const auto request = encode(Request{});
    try_request(helped(in, std::span{request}.first(8)));
    try_request(helped(in, std::span{request}.first(10)));
    const VerdictBytes verdict = encode_verdict(PF_REFUSED, {});
    try_verdict(helped(in, std::span{verdict.bytes}.first(4)));
    return 0;
}
