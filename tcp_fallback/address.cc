#include "tcp_fallback/address.h"

#include <sys/un.h>

#include <cstddef>
#include <cstring>

namespace pageferry::tcp {

Result<transport::Uri> parse_own_uri(std::string_view text) {
    auto uri = transport::parse_uri(text);
    if (uri && uri->scheme != "tcp" && uri->scheme != "unix") {
        return std::unexpected{make_error(ErrorCode::invalid_argument, "parse URI", uri->to_string(),
                                          "this transport does not serve the scheme \"" + uri->scheme + "\"",
                                          "write tcp:HOST:PORT or unix:PATH")};
    }
    return uri;
}

Result<Endpoint> unix_endpoint(const transport::Uri& uri) {
    Endpoint endpoint;
    auto& address = reinterpret_cast<sockaddr_un&>(endpoint.storage);
    if (uri.path.empty() || uri.path.size() >= sizeof address.sun_path) {
        return std::unexpected{make_error(ErrorCode::invalid_argument, "parse", uri.to_string(),
                                          "a socket path has 1 to " + std::to_string(sizeof address.sun_path - 1) +
                                              " bytes, this one has " + std::to_string(uri.path.size()),
                                          "choose a shorter path, such as unix:/run/pageferry/vm.sock")};
    }
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, uri.path.data(), uri.path.size());
    endpoint.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + uri.path.size() + 1);
    return endpoint;
}

} // namespace pageferry::tcp
