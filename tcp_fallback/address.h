// The URIs of this transport.
//
// Threads: any; no state.
#pragma once

#include "tcp_fallback/kit.h"
#include "transport/plugin/address.h"

#include <string_view>

namespace pageferry::tcp {

// A "tcp" or "unix" URI. invalid_argument: malformed, or of another scheme.
Result<transport::Uri> parse_own_uri(std::string_view text);

// The address of a "unix" URI. invalid_argument: the path is empty or longer than a socket address holds.
Result<Endpoint> unix_endpoint(const transport::Uri& uri);

} // namespace pageferry::tcp
