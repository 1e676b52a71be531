#include "monitor/client.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

namespace pageferry::monitor {

namespace {

using nlohmann::json;
using std::chrono::steady_clock;

// query-qmp-schema of QEMU 10 is 0.3 MB; a peer that sends this much without a line end speaks no QMP.
constexpr std::size_t longest_line = std::size_t{64} << 20;

constexpr const char* address_forms = "give a path, unix:PATH or tcp:HOST:PORT";

int milliseconds_until(Deadline deadline) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - steady_clock::now()).count();
    return static_cast<int>(std::clamp<long long>(left, 0, 3'600'000));
}

std::string remedy_of(int number) {
    switch (number) {
    case ENOENT: return "start QEMU with -qmp unix:PATH,server=on,wait=off and give the same PATH";
    case EAGAIN:
    case ETIMEDOUT: return "a QMP monitor serves one client at a time: close the other one, or give QEMU a second -qmp";
    case ECONNREFUSED: return "nothing listens there: is QEMU still running";
    case EACCES: return "use the user that QEMU runs as, or root";
    default: return {};
    }
}

// Finishes a non-blocking connect(2). The errno, 0 on success.
int finish_connect(int socket, Deadline deadline) {
    pollfd entry{.fd = socket, .events = POLLOUT, .revents = 0};
    int ready = 0;
    do {
        ready = ::poll(&entry, 1, milliseconds_until(deadline));
    } while (ready < 0 && errno == EINTR);
    if (ready == 0) {
        return ETIMEDOUT;
    }
    int number = 0;
    socklen_t length = sizeof number;
    return ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &number, &length) != 0 ? errno : number;
}

// A connected socket or the errno.
std::expected<Fd, int> connect_socket(int family, const sockaddr* address, socklen_t length, Deadline deadline) {
    Fd socket{::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    if (!socket) {
        return std::unexpected(errno);
    }
    if (::connect(socket.get(), address, length) == 0) {
        return socket;
    }
    // A local socket whose backlog is full answers EAGAIN: another client is being served.
    const int number = errno == EINPROGRESS ? finish_connect(socket.get(), deadline) : errno;
    if (number != 0) {
        return std::unexpected(number);
    }
    return socket;
}

Result<Fd> connect_local(const std::string& path, const std::string& text, Deadline deadline) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        return std::unexpected(make_error(ErrorCode::invalid_argument, "connect to monitor", text,
                                          "The path is longer than the 107 bytes a local socket can have", "use a shorter path"));
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    // sockaddr is the kernel's own common view of all addresses.
    auto socket = connect_socket(AF_UNIX, reinterpret_cast<const sockaddr*>(&address), sizeof address, deadline);
    if (!socket) {
        return std::unexpected(errno_error(socket.error(), "connect to monitor", text, remedy_of(socket.error())));
    }
    return std::move(*socket);
}

Result<Fd> connect_tcp(const QmpAddress& to, const std::string& text, Deadline deadline) {
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (const int answer = ::getaddrinfo(to.host.c_str(), to.port.c_str(), &hints, &found); answer != 0) {
        Error error =
            make_error(ErrorCode::not_found, "resolve monitor address", text, ::gai_strerror(answer), "check host and port");
        error.native = answer;
        return std::unexpected(std::move(error));
    }
    const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner{found, &::freeaddrinfo};
    int last = EHOSTUNREACH;
    for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
        auto socket = connect_socket(entry->ai_family, entry->ai_addr, entry->ai_addrlen, deadline);
        if (socket) {
            return std::move(*socket);
        }
        last = socket.error();
    }
    return std::unexpected(errno_error(last, "connect to monitor", text, remedy_of(last)));
}

} // namespace

Result<QmpAddress> parse_qmp_address(std::string_view text) {
    const auto bad = [&](std::string reason) {
        return std::unexpected(
            make_error(ErrorCode::invalid_argument, "read monitor address", std::string{text}, std::move(reason), address_forms));
    };
    if (!text.starts_with("tcp:")) {
        const std::string_view path = text.starts_with("unix:") ? text.substr(5) : text;
        if (path.empty()) {
            return bad("The path is empty");
        }
        return QmpAddress{.path = std::string{path}, .host = {}, .port = {}};
    }
    const std::string_view rest = text.substr(4);
    const std::size_t colon = rest.rfind(':');
    if (colon == std::string_view::npos || colon + 1 == rest.size()) {
        return bad("The port is missing");
    }
    std::string_view host = rest.substr(0, colon);
    const std::string_view port = rest.substr(colon + 1);
    if (port.size() > 5 || !std::ranges::all_of(port, [](char c) { return c >= '0' && c <= '9'; }) ||
        std::stoul(std::string{port}) > 65535 || std::stoul(std::string{port}) == 0) {
        return bad("The port is no number from 1 to 65535");
    }
    if (host.starts_with('[') && host.ends_with(']')) {
        host = host.substr(1, host.size() - 2);
    } else if (host.contains(':')) {
        return bad("An IPv6 address needs brackets");
    }
    return QmpAddress{.path = {}, .host = host.empty() ? "localhost" : std::string{host}, .port = std::string{port}};
}

Result<QmpClient> QmpClient::connect(const std::string& address, Deadline deadline) {
    const auto parsed = parse_qmp_address(address);
    if (!parsed) {
        return std::unexpected(parsed.error());
    }
    auto socket = parsed->path.empty() ? connect_tcp(*parsed, address, deadline) : connect_local(parsed->path, address, deadline);
    if (!socket) {
        return std::unexpected(std::move(socket.error()));
    }
    QmpClient client{std::move(*socket), address};
    auto greeting = client.read_message("read QMP greeting", deadline);
    if (!greeting) {
        if (greeting.error().code == ErrorCode::timed_out) {
            greeting.error().remedy =
                "a QMP monitor serves one client at a time: close the other one, or give QEMU a second -qmp";
        }
        return std::unexpected(std::move(greeting.error()));
    }
    if (!greeting->contains("QMP")) {
        return std::unexpected(client.error(ErrorCode::protocol, "read QMP greeting", "The peer is no QMP monitor",
                                            "give the address of a -qmp monitor"));
    }
    client.greeting_ = (*greeting)["QMP"];
    if (auto answer = client.execute("qmp_capabilities", json::object(), deadline); !answer) {
        return std::unexpected(std::move(answer.error()));
    }
    return client;
}

Result<json> QmpClient::execute(std::string_view command, const json& arguments, Deadline deadline) {
    const std::string id = "pageferry-" + std::to_string(++last_id_);
    json request{{"execute", command}, {"id", id}};
    if (!arguments.is_null() && !arguments.empty()) {
        request["arguments"] = arguments;
    }
    std::string text = request.dump(-1, ' ', false, json::error_handler_t::replace);
    text += '\n';
    if (auto sent = send(text, command, deadline); !sent) {
        return std::unexpected(std::move(sent.error()));
    }
    for (;;) {
        auto message = read_message(command, deadline);
        if (!message) {
            return std::unexpected(std::move(message.error()));
        }
        if (message->contains("event")) {
            keep_event(*message);
            continue;
        }
        const auto reply_id = message->find("id");
        if (const auto failure = message->find("error"); failure != message->end() && failure->is_object()) {
            // Without an id the monitor could not even read the request: then it is ours.
            if (reply_id != message->end() && *reply_id != id) {
                continue;
            }
            Error answer =
                make_error(ErrorCode::refused, std::string{command}, failure->value("class", std::string{"GenericError"}),
                           failure->value("desc", std::string{}));
            answer.peer = address_;
            return std::unexpected(std::move(answer));
        }
        if (reply_id == message->end() || *reply_id != id) {
            continue; // the late reply to a command that was given up
        }
        if (const auto value = message->find("return"); value != message->end()) {
            return *value;
        }
        return std::unexpected(error(ErrorCode::protocol, command, "The reply has neither return nor error"));
    }
}

Result<std::optional<QmpEvent>> QmpClient::next_event(Deadline deadline) {
    while (events_.empty()) {
        auto message = read_message("wait for event", deadline);
        if (!message) {
            if (message.error().code == ErrorCode::timed_out) {
                return std::nullopt;
            }
            return std::unexpected(std::move(message.error()));
        }
        if (message->contains("event")) {
            keep_event(*message);
        }
    }
    QmpEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
}

void QmpClient::keep_event(const json& message) {
    QmpEvent event;
    if (const auto& name = message["event"]; name.is_string()) {
        event.name = name.get<std::string>();
    }
    if (const auto data = message.find("data"); data != message.end()) {
        event.data = *data;
    }
    if (const auto stamp = message.find("timestamp"); stamp != message.end() && stamp->is_object()) {
        const auto part = [&](const char* key) {
            const auto value = stamp->find(key);
            return value != stamp->end() && value->is_number_integer() ? value->get<std::int64_t>() : 0;
        };
        event.time = std::chrono::seconds{part("seconds")} + std::chrono::microseconds{part("microseconds")};
    }
    events_.push_back(std::move(event));
}

Error QmpClient::error(ErrorCode code, std::string_view operation, std::string reason, std::string remedy) const {
    return make_error(code, std::string{operation}, address_, std::move(reason), std::move(remedy));
}

Result<void> QmpClient::wait(short events, std::string_view operation, Deadline deadline) const {
    for (;;) {
        std::array<pollfd, 2> entries{pollfd{.fd = socket_.get(), .events = events, .revents = 0},
                                      pollfd{.fd = interrupt_, .events = POLLIN, .revents = 0}};
        const int ready = ::poll(entries.data(), entries.size(), milliseconds_until(deadline)); // poll skips an fd of -1
        if (ready < 0 && errno != EINTR) {
            return std::unexpected(errno_error(errno, std::string{operation}, address_));
        }
        if (ready > 0 && entries[0].revents != 0) {
            return {};
        }
        if (ready > 0 && entries[1].revents != 0) {
            return std::unexpected(error(ErrorCode::cancelled, operation, "Interrupted"));
        }
        if (steady_clock::now() >= deadline) {
            return std::unexpected(error(ErrorCode::timed_out, operation, "The monitor did not answer in time"));
        }
    }
}

Result<void> QmpClient::send(std::string_view text, std::string_view operation, Deadline deadline) {
    while (!text.empty()) {
        const ssize_t sent = ::send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL);
        if (sent >= 0) {
            text.remove_prefix(static_cast<std::size_t>(sent));
        } else if (errno == EAGAIN) {
            // Half a command on the wire would garble the next one, so an interruption does not end this wait.
            const int interrupt = std::exchange(interrupt_, -1);
            auto ready = wait(POLLOUT, operation, deadline);
            interrupt_ = interrupt;
            if (!ready) {
                return ready;
            }
        } else if (errno != EINTR) {
            const int number = errno;
            if (number == EPIPE || number == ECONNRESET) {
                return std::unexpected(
                    error(ErrorCode::closed, operation, "The monitor closed the connection", "see whether QEMU still runs"));
            }
            return std::unexpected(errno_error(number, std::string{operation}, address_));
        }
    }
    return {};
}

Result<json> QmpClient::read_message(std::string_view operation, Deadline deadline) {
    for (;;) {
        if (const std::size_t end = unread_.find('\n', searched_); end != std::string::npos) {
            json message = json::parse(unread_.begin(), unread_.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
            const bool blank = std::all_of(unread_.begin(), unread_.begin() + static_cast<std::ptrdiff_t>(end),
                                           [](char c) { return c == '\r' || c == ' '; });
            unread_.erase(0, end + 1);
            searched_ = 0;
            if (blank) {
                continue;
            }
            if (!message.is_object()) {
                return std::unexpected(error(ErrorCode::protocol, operation, "The peer sent a line that is no JSON object",
                                             "give the address of a -qmp monitor"));
            }
            return message;
        }
        searched_ = unread_.size();
        if (unread_.size() > longest_line) {
            return std::unexpected(error(ErrorCode::protocol, operation, "The peer sends without end of line",
                                         "give the address of a -qmp monitor"));
        }
        std::array<char, 16384> bytes;
        const ssize_t got = ::recv(socket_.get(), bytes.data(), bytes.size(), 0);
        if (got > 0) {
            unread_.append(bytes.data(), static_cast<std::size_t>(got));
        } else if (got == 0 || errno == ECONNRESET) {
            return std::unexpected(
                error(ErrorCode::closed, operation, "The monitor closed the connection", "see whether QEMU still runs"));
        } else if (errno == EAGAIN) {
            if (auto ready = wait(POLLIN, operation, deadline); !ready) {
                return std::unexpected(std::move(ready.error()));
            }
        } else if (errno != EINTR) {
            return std::unexpected(errno_error(errno, std::string{operation}, address_));
        }
    }
}

} // namespace pageferry::monitor
