// Migration URIs, as QEMU writes them: tcp:host:port, rdma:host:port, unix:path; IPv6 addresses in brackets; an empty host means
// any address. "tcp://host:port" is read as the same thing.
//
// Pure functions; any thread.
#pragma once

#include "base/error.h"

#include <cstdint>
#include <string>
#include <string_view>

namespace pageferry::transport {

struct Uri {
    std::string scheme;     // "tcp", "rdma", "unix", or a third party's
    std::string host;       // without brackets; empty: any address
    std::uint16_t port = 0; // 0: any free port (listening only)
    std::string path;       // unix only
    std::string text;       // as it was given
    // "tcp:[::1]:4444": the form that parses back to the same.
    [[nodiscard]] std::string to_string() const;
};

// invalid_argument with a reason that names the part and a remedy that shows the form. Every scheme but "unix" is read in the
// form host:port; whether a transport serves it is the loader's question.
Result<Uri> parse_uri(std::string_view text);

// The scheme alone: a letter, then letters, digits and "+-.", before the first colon; empty when there is none.
std::string_view scheme_of(std::string_view text);

} // namespace pageferry::transport
