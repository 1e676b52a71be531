// Any bytes are refused as "protocol", or are a message that encodes to the same bytes.
//
// The fuzzer would take long to find the magic and the right length by itself, so every input is also tried as a body of the type
// that its first byte names.
#include "transport/session/messages.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

namespace {

using namespace pageferry;
using namespace pageferry::transport::session;

constexpr std::uint32_t last_type = 22; // Received

void try_bytes(std::span<const std::byte> bytes) {
    const auto message = decode(bytes);
    if (!message) {
        if (message.error().code != ErrorCode::protocol || message.error().reason.empty()) {
            std::abort();
        }
        return;
    }
    const auto again = encode(*message);
    if (!again || !std::ranges::equal(*again, bytes)) {
        std::abort();
    }
    if (const auto* table = std::get_if<RamTable>(&*message)) {
        if (!match_ram_tables(table->blocks, table->blocks)) {
            std::abort(); // decode() has refused everything that could make a table differ from itself
        }
    }
}

std::vector<std::byte> with_header(std::span<const std::byte> input) {
    const auto size = static_cast<std::uint32_t>(input.size() - 1);
    std::vector<std::byte> bytes;
    const auto put = [&](std::uint32_t value, int count) {
        for (int i = 0; i < count; ++i) {
            bytes.push_back(static_cast<std::byte>((value >> (8 * i)) & 0xffU));
        }
    };
    put(magic, 4);
    put(std::to_integer<std::uint32_t>(input[0]) % (last_type + 2), 2); // and some that are none
    put(0, 2);
    put(size, 4);
    bytes.insert(bytes.end(), input.begin() + 1, input.end());
    return bytes;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto bytes = std::as_bytes(std::span{data, size});
    try_bytes(bytes);
    if (!bytes.empty()) {
        try_bytes(with_header(bytes));
    }
    return 0;
}
