// Any bytes are refused as "protocol", or are a frame (a piece, a message header) that encodes to the same bytes.
#include "tcp_fallback/wire.h"

#include "transport/abi/pageferry_transport.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <span>

namespace {

using namespace pageferry;
using namespace pageferry::tcp;

void check(bool good) {
    if (!good) {
        std::abort();
    }
}

void try_frame(std::span<const std::byte> in) {
    const auto frame = decode_frame(in);
    if (!frame) {
        check(frame.error().code == ErrorCode::protocol && !frame.error().reason.empty());
        return;
    }
    std::array<std::byte, frame_bytes> again{};
    encode_frame(*frame, again);
    // A fence's piece is not looked at.
    const std::size_t known = frame->count > 0 ? frame_bytes : frame_bytes - piece_bytes;
    check(std::ranges::equal(std::span{again}.first(known), in.first(known)));
    if (frame->count > 0) {
        check(frame->count <= max_pieces && frame->first.length <= max_piece_bytes && frame->first.length > 0);
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto in = std::as_bytes(std::span{data, size});
    if (in.size() >= frame_bytes) {
        try_frame(in.first(frame_bytes));
        // The fuzzer would take long to find the magic by itself.
        std::array<std::byte, frame_bytes> helped{};
        std::ranges::copy(in.first(frame_bytes), helped.begin());
        helped[0] = std::byte{0x50};
        helped[1] = std::byte{0x46};
        helped[3] = std::byte{0};
        try_frame(helped);
    }
    if (in.size() >= piece_bytes) {
        if (const auto piece = decode_piece(in.first(piece_bytes))) {
            std::array<std::byte, piece_bytes> again{};
            encode_piece(*piece, again);
            check(std::ranges::equal(again, in.first(piece_bytes)));
        }
    }
    if (in.size() >= control_header_bytes) {
        if (const auto length = decode_control_header(in.first(control_header_bytes))) {
            check(*length >= 1 && *length <= PF_CONTROL_MAX);
        }
    }
    return 0;
}
