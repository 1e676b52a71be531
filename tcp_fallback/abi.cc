#include "tcp_fallback/abi.h"

#include "tcp_fallback/address.h"
#include "tcp_fallback/connection.h"
#include "tcp_fallback/listener.h"
#include "transport/plugin/table.h"

#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <string_view>

namespace pageferry::tcp {

namespace {

constexpr std::int64_t probe_ms = 5000; // for a name server to answer

Outcome<void> look_at_address(const std::string& text) {
    auto uri = parse_own_uri(text);
    if (!uri) {
        return failed(std::move(uri.error()));
    }
    if (uri->scheme == "tcp") {
        auto found = resolve(*uri, Purpose::connecting, Deadline::in(probe_ms), -1);
        return found ? Outcome<void>{} : std::unexpected{std::move(found.error())};
    }
    if (auto endpoint = unix_endpoint(*uri); !endpoint) {
        return failed(std::move(endpoint.error()));
    }
    const std::filesystem::path directory = std::filesystem::absolute(uri->path).parent_path();
    struct stat status{};
    if (::stat(directory.c_str(), &status) != 0) {
        return failed(errno_error(errno, "probe", directory, "create the directory of the socket first"));
    }
    if (!S_ISDIR(status.st_mode)) {
        return failed(errno_error(ENOTDIR, "probe", directory));
    }
    return {};
}

Outcome<void> look(const char* uri) {
    const bool local = uri != nullptr && std::string_view{uri}.starts_with("unix");
    const auto can = [](int family) { return static_cast<bool>(Fd{::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)}); };
    if (!(local ? can(AF_UNIX) : can(AF_INET) || can(AF_INET6))) {
        return failed(errno_error(errno, "socket", local ? "unix" : "tcp"));
    }
    return uri == nullptr ? Outcome<void>{} : look_at_address(uri);
}

constexpr const char* schemes[] = {"tcp", "unix", nullptr};

constexpr pf_transport table = Table<Connection, Listener, look>::make(
    "tcp", "TCP and unix sockets: any network, pages received at their final address", schemes);

} // namespace

const pf_transport* transport_table(std::uint32_t host_abi_version) {
    return host_abi_version == PF_TRANSPORT_ABI_VERSION ? &table : nullptr;
}

} // namespace pageferry::tcp
