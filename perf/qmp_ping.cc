#include "perf/qmp_ping.h"

#include "base/fd.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <string_view>

namespace pageferry::perf {

namespace {

// The least that a client can do: the clock runs over system calls and a search for the line's end.
class Client {
public:
    static Result<Client> open(const std::string& path, std::chrono::milliseconds timeout) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        if (path.size() >= sizeof address.sun_path) {
            return std::unexpected(make_error(ErrorCode::invalid_argument, "connect", path, "the path is too long for a socket"));
        }
        std::ranges::copy(path, std::begin(address.sun_path));
        Client client;
        client.path_ = path;
        client.socket_ = Fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
        const timeval longest{.tv_sec = timeout.count() / 1000, .tv_usec = timeout.count() % 1000 * 1000};
        if (!client.socket_ || ::setsockopt(client.socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &longest, sizeof longest) != 0 ||
            ::connect(client.socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
            return std::unexpected(errno_error(errno, "connect", path));
        }
        PAGEFERRY_TRY(client.line()); // the greeting
        PAGEFERRY_TRY(client.ask("{\"execute\": \"qmp_capabilities\"}\r\n"));
        return client;
    }

    // The answer's length. Events that come first are passed over.
    Result<std::size_t> ask(std::string_view request) {
        if (::send(socket_.get(), request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size())) {
            return std::unexpected(errno_error(errno, "send", path_));
        }
        for (;;) {
            const auto size = line();
            if (!size) {
                return size;
            }
            const std::string_view text = std::string_view{buffer_}.substr(0, *size);
            if (text.starts_with("{\"return\"")) {
                return size;
            }
            if (!text.starts_with("{\"timestamp\"")) {
                return std::unexpected(make_error(ErrorCode::refused, "ask", path_, std::string{text}));
            }
        }
    }

private:
    // Leaves the next line at the buffer's beginning; its length, line end included.
    Result<std::size_t> line() {
        buffer_.erase(0, taken_);
        taken_ = 0;
        std::size_t seen = 0;
        for (;;) {
            if (const auto end = buffer_.find('\n', seen); end != std::string::npos) {
                return taken_ = end + 1;
            }
            seen = buffer_.size();
            std::array<char, 65'536> piece; // NOLINT(cppcoreguidelines-pro-type-member-init): filled by the kernel
            const ssize_t got = ::recv(socket_.get(), piece.data(), piece.size(), 0);
            if (got <= 0) {
                return std::unexpected(got == 0 ? make_error(ErrorCode::closed, "receive", path_, "the monitor has closed")
                                                : errno_error(errno, "receive", path_));
            }
            buffer_.append(piece.data(), static_cast<std::size_t>(got));
        }
    }

    std::string path_;
    Fd socket_;
    std::string buffer_;
    std::size_t taken_ = 0; // of the buffer, the last line
};

void rest(std::chrono::microseconds pause) {
    if (pause.count() > 0) {
        const timespec length{.tv_sec = pause.count() / 1'000'000, .tv_nsec = pause.count() % 1'000'000 * 1000};
        (void)::nanosleep(&length, nullptr); // cut short by a signal, it does not matter
    }
}

} // namespace

Result<std::vector<QmpPing>> run_qmp_ping(const QmpPingOptions& options) {
    std::vector<Client> clients;
    std::vector<QmpPing> results;
    for (const std::string& path : options.sockets) {
        auto client = Client::open(path, options.timeout);
        if (!client) {
            return std::unexpected(std::move(client.error()));
        }
        clients.push_back(std::move(*client));
        results.push_back({.socket = path, .latency = {}, .reply_bytes = 0});
    }
    const std::string request = options.request + "\r\n";
    std::vector<std::vector<double>> samples(clients.size());
    for (unsigned i = 0; i < options.warm_up + options.runs; ++i) {
        for (std::size_t at = 0; at < clients.size(); ++at) {
            rest(options.pause);
            const auto begin = std::chrono::steady_clock::now();
            const auto size = clients[at].ask(request);
            const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
            if (!size) {
                return std::unexpected(size.error());
            }
            if (i >= options.warm_up) {
                samples[at].push_back(took.count());
            }
            results[at].reply_bytes = *size;
        }
    }
    for (std::size_t at = 0; at < clients.size(); ++at) {
        results[at].latency = latency_of(samples[at]);
    }
    return results;
}

} // namespace pageferry::perf
