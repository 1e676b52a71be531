// What a stranger may send first: any bytes are named, waited on, refused, or are a preamble that encodes to the same bytes.
#include "tcp_fallback/handshake.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>

namespace {

using namespace pageferry::tcp;

void check(bool good) {
    if (!good) {
        std::abort();
    }
}

void try_preamble(std::span<const std::byte> in) {
    const auto preamble = decode_preamble(in);
    if (!preamble) {
        check(!preamble.error().reason.empty());
        return;
    }
    check(!name_stranger(in));
    std::array<std::byte, preamble_bytes> again{};
    encode_preamble(*preamble, again);
    check(std::ranges::equal(std::span{again}.first(52), in.first(52))); // the rest is reserved
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto in = std::as_bytes(std::span{data, size});
    if (const auto name = name_stranger(in)) {
        check(!name->empty());
    }
    if (in.size() >= preamble_bytes) {
        try_preamble(in.first(preamble_bytes));
        std::array<std::byte, preamble_bytes> helped{}; // with the magic that the fuzzer would take long to find
        std::ranges::copy(in.first(preamble_bytes), helped.begin());
        std::memcpy(helped.data(), "PGFLANE\n", 8);
        try_preamble(helped);
    }
    if (in.size() >= greeting_bytes) {
        if (const auto greeting = decode_greeting(in.first(greeting_bytes))) {
            const auto version = choose_version(*greeting);
            check(!version || (*version >= greeting->lowest && *version <= greeting->highest));
        }
    }
    if (in.size() >= verdict_bytes) {
        if (const auto verdict = decode_verdict(in.first(verdict_bytes))) {
            check(verdict->text_length <= verdict_text_max);
        }
    }
    for (const char letter : printable(in)) {
        check(letter >= ' ' && letter <= '~');
    }
    return 0;
}
