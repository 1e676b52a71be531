// Any text is refused with a reason and a remedy, or is a URI whose to_string() parses back to the same.
#include "transport/uri.h"

#include <cstdint>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace pageferry;
    const std::string_view text{reinterpret_cast<const char*>(data), size};
    const auto uri = transport::parse_uri(text);
    if (!uri) {
        const Error& error = uri.error();
        if (error.code != ErrorCode::invalid_argument || error.reason.empty() || error.remedy.empty()) {
            std::abort();
        }
        return 0;
    }
    const auto again = transport::parse_uri(uri->to_string());
    if (!again || again->scheme != uri->scheme || again->host != uri->host || again->port != uri->port ||
        again->path != uri->path || transport::scheme_of(text) != uri->scheme) {
        std::abort();
    }
    return 0;
}
