#include "transport/plugin/address.h"

#include "transport/plugin/events.h"
#include "transport/plugin/threads.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <mutex>

namespace pageferry::plugin {

namespace {

template <class Address>
const Address& as(const Endpoint& endpoint) {
    return reinterpret_cast<const Address&>(endpoint.storage);
}

Fault fault_of(int answer, int error, const transport::Uri& uri) {
    ErrorCode code = ErrorCode::not_found;
    std::string reason = ::gai_strerror(answer);
    std::string remedy = "check the host name in " + uri.to_string();
    switch (answer) {
    case EAI_AGAIN:
        code = ErrorCode::unreachable;
        remedy = "check that a name server is reachable, or give the address in numbers";
        break;
    case EAI_MEMORY:
        code = ErrorCode::resources;
        remedy.clear();
        break;
    case EAI_SYSTEM: {
        const Error system = errno_error(error, "resolve", uri.host);
        code = system.code;
        reason = system.reason;
        remedy.clear();
        break;
    }
    default: break;
    }
    Error failure = make_error(code, "resolve", uri.host, std::move(reason), std::move(remedy));
    failure.native = answer == EAI_SYSTEM ? error : answer;
    return Fault{.error = std::move(failure), .lane = PF_LANE_NONE, .phase = PF_PHASE_RESOLVING_ADDRESS};
}

// What a look-up is asked and what it found: owned by the one who asks and by the thread that looks, whichever stays longer.
struct LookUp {
    explicit LookUp(transport::Uri what) : uri(std::move(what)) {}

    const transport::Uri uri;
    Fd done; // an event: raised when the result is there
    std::mutex mutex;
    Outcome<std::vector<Endpoint>> result; // under mutex; there when done is raised
};

Outcome<std::vector<Endpoint>> look_up(const transport::Uri& uri, Purpose purpose, int flags) {
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = flags | AI_NUMERICSERV | (purpose == Purpose::listening ? AI_PASSIVE : 0);
    addrinfo* list = nullptr;
    const std::string port = std::to_string(uri.port);
    const int answer = ::getaddrinfo(uri.host.empty() ? nullptr : uri.host.c_str(), port.c_str(), &hints, &list);
    if (answer != 0) {
        return std::unexpected{fault_of(answer, errno, uri)};
    }
    std::vector<Endpoint> found;
    for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
        if (entry->ai_family == AF_INET || entry->ai_family == AF_INET6) {
            Endpoint endpoint;
            std::memcpy(&endpoint.storage, entry->ai_addr, entry->ai_addrlen);
            endpoint.length = entry->ai_addrlen;
            found.push_back(endpoint);
        }
    }
    ::freeaddrinfo(list);
    if (found.empty()) {
        return std::unexpected{fault_of(EAI_NONAME, 0, uri)};
    }
    return found;
}

} // namespace

std::uint16_t Endpoint::port() const {
    switch (family()) {
    case AF_INET: return ntohs(as<sockaddr_in>(*this).sin_port);
    case AF_INET6: return ntohs(as<sockaddr_in6>(*this).sin6_port);
    default: return 0;
    }
}

void Endpoint::set_port(std::uint16_t port) {
    if (family() == AF_INET) {
        reinterpret_cast<sockaddr_in&>(storage).sin_port = htons(port);
    } else if (family() == AF_INET6) {
        reinterpret_cast<sockaddr_in6&>(storage).sin6_port = htons(port);
    }
}

bool Endpoint::is_any() const {
    switch (family()) {
    case AF_INET: return as<sockaddr_in>(*this).sin_addr.s_addr == INADDR_ANY;
    case AF_INET6: return IN6_IS_ADDR_UNSPECIFIED(&as<sockaddr_in6>(*this).sin6_addr);
    default: return false;
    }
}

std::string Endpoint::to_string() const {
    std::array<char, INET6_ADDRSTRLEN> text{};
    if (family() == AF_INET) {
        ::inet_ntop(AF_INET, &as<sockaddr_in>(*this).sin_addr, text.data(), text.size());
        return std::string{text.data()} + ":" + std::to_string(port());
    }
    if (family() == AF_INET6) {
        const in6_addr& address = as<sockaddr_in6>(*this).sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(&address)) {
            ::inet_ntop(AF_INET, &address.s6_addr[12], text.data(), text.size());
            return std::string{text.data()} + ":" + std::to_string(port());
        }
        ::inet_ntop(AF_INET6, &address, text.data(), text.size());
        return "[" + std::string{text.data()} + "]:" + std::to_string(port());
    }
    if (family() == AF_UNIX) {
        const auto& path = as<sockaddr_un>(*this).sun_path;
        const std::size_t room = length > offsetof(sockaddr_un, sun_path) ? length - offsetof(sockaddr_un, sun_path) : 0;
        const std::string name{path, ::strnlen(path, room)};
        return name.empty() ? "unix" : "unix:" + name;
    }
    return "unknown";
}

Outcome<std::vector<Endpoint>> resolve(const transport::Uri& uri, Purpose purpose, const Deadline& deadline, int cancel) {
    if (uri.host.empty() && purpose == Purpose::listening) {
        Endpoint any;
        auto& six = reinterpret_cast<sockaddr_in6&>(any.storage);
        six.sin6_family = AF_INET6;
        any.length = sizeof(sockaddr_in6);
        any.set_port(uri.port);
        return std::vector{any}; // the listener falls back to IPv4 where there is no IPv6
    }
    // An address in numbers, or none, asks nobody: no thread needed.
    if (auto numeric = look_up(uri, purpose, uri.host.empty() ? 0 : AI_NUMERICHOST);
        numeric || numeric.error().error.native != EAI_NONAME) {
        return numeric;
    }
    auto work = std::make_shared<LookUp>(uri);
    auto event = make_event();
    if (!event) {
        return failed(std::move(event.error()), PF_LANE_NONE, PF_PHASE_RESOLVING_ADDRESS);
    }
    work->done = std::move(*event);
    auto thread = start_thread("pf-resolve", [work, purpose] {
        auto result = look_up(work->uri, purpose, AI_ADDRCONFIG);
        const std::scoped_lock lock{work->mutex};
        work->result = std::move(result);
        raise_event(work->done.get());
    });
    if (!thread) {
        return failed(std::move(thread.error()), PF_LANE_NONE, PF_PHASE_RESOLVING_ADDRESS);
    }
    const Wait waited = wait_for(work->done.get(), POLLIN, deadline, cancel);
    if (waited == Wait::ready) {
        thread->join();
        return std::move(work->result);
    }
    thread->detach(); // it owns what it touches
    if (waited == Wait::cancelled) {
        return failed(make_error(ErrorCode::cancelled, "resolve", uri.host, "cancelled"), PF_LANE_NONE,
                      PF_PHASE_RESOLVING_ADDRESS);
    }
    return failed(make_error(ErrorCode::timed_out, "resolve", uri.host, "no answer from the name server in time",
                             "check the name server, or give the address in numbers"),
                  PF_LANE_NONE, PF_PHASE_RESOLVING_ADDRESS);
}

} // namespace pageferry::plugin
