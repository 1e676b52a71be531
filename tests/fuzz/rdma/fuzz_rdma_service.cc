// Any bytes on a service lane are refused as "protocol", or are a message that encodes to the same bytes.
#include "rdma/service_message.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <span>

namespace {

using namespace pageferry;
using namespace pageferry::rdma;

void check(bool good) {
    if (!good) {
        std::abort();
    }
}

void try_message(std::span<const std::byte> in) {
    const auto message = decode_service(in);
    if (!message) {
        check(message.error().code == ErrorCode::protocol && !message.error().reason.empty());
        return;
    }
    check(std::ranges::equal(encode(*message), in));
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto in = std::as_bytes(std::span{data, size});
    try_message(in);
    if (in.size() >= service_bytes) {
        std::array<std::byte, service_bytes> helped{}; // with the magic that the fuzzer would take long to find
        std::ranges::copy(in.first(service_bytes), helped.begin());
        const auto message = encode(ServiceMessage{});
        std::ranges::copy(std::span{message}.first(4), helped.begin());
        try_message(helped);
        helped[5] = std::byte{0};
        helped[4] &= std::byte{7};
        try_message(helped);
    }
    return 0;
}
