#include "monitor/transport_choice.h"

#include "monitor/arguments.h"
#include "transport/uri.h"

#include <algorithm>
#include <utility>

namespace pageferry::monitor {

namespace {

bool is_rdma(const std::string& uri) {
    return transport::scheme_of(uri) == "rdma";
}

// tcp: at the same host and port.
std::string over_tcp(const std::string& uri) {
    auto parsed = transport::parse_uri(uri);
    if (!parsed) {
        return uri; // no user's URI comes so far
    }
    parsed->scheme = "tcp";
    return parsed->to_string();
}

void add_once(std::vector<std::string>& list, std::string uri) {
    if (std::ranges::find(list, uri) == list.end()) {
        list.push_back(std::move(uri));
    }
}

} // namespace

Result<std::vector<std::string>> choose_transports(const std::vector<std::string>& given, RdmaPolicy policy) {
    std::vector<std::string> chosen;
    for (const auto& uri : given) {
        if (policy == RdmaPolicy::off && is_rdma(uri)) {
            add_once(chosen, over_tcp(uri));
        } else if (policy != RdmaPolicy::required || is_rdma(uri)) {
            add_once(chosen, uri);
        }
    }
    if (policy == RdmaPolicy::required && chosen.empty()) {
        return refuse_with(
            "The parameter 'x-pageferry-rdma' is 'required', but no rdma: URI is given: write rdma:HOST:PORT, or set "
            "the parameter to 'preferred' or 'off'");
    }
    if (policy == RdmaPolicy::preferred && std::ranges::all_of(given, is_rdma)) {
        for (const auto& uri : given) {
            add_once(chosen, over_tcp(uri));
        }
    }
    return chosen;
}

} // namespace pageferry::monitor
