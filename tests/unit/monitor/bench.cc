#include "bench.h"

#include "monitor/fd_message.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <chrono>
#include <cstring>
#include <filesystem>

namespace pageferry::monitor::test {

namespace {
constexpr std::chrono::seconds patience{30};
}

std::pair<Fd, Fd> socket_pair() {
    std::array<int, 2> fds{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()), 0);
    return {Fd{fds[0]}, Fd{fds[1]}};
}

bool run_until(boost::asio::io_context& io, const std::function<bool()>& condition) {
    const auto end = std::chrono::steady_clock::now() + patience;
    while (!condition()) {
        if (std::chrono::steady_clock::now() > end) {
            return false;
        }
        io.restart();
        io.run_for(std::chrono::milliseconds{1});
    }
    return true;
}

Peer::Peer(boost::asio::io_context& io, Fd socket) : io_(io), socket_(std::move(socket)) {}

void Peer::send(std::string bytes, std::vector<int> numbers) {
    std::vector<Fd> copies;
    for (const int number : numbers) {
        copies.emplace_back(::fcntl(number, F_DUPFD_CLOEXEC, 0)); // the caller keeps its own
    }
    std::size_t done = 0;
    EXPECT_TRUE(run_until(io_, [&] {
        while (done < bytes.size()) {
            const auto sent = send_with_fds(socket_.get(), std::string_view{bytes}.substr(done), copies);
            if (!sent) {
                return sent.error().code != ErrorCode::again;
            }
            copies.clear();
            done += *sent;
        }
        return true;
    }));
}

bool Peer::try_send(std::string_view bytes) {
    const auto sent = send_with_fds(socket_.get(), bytes, {});
    return sent && *sent == bytes.size();
}

void Peer::read_some() {
    std::array<char, 65536> buffer{};
    while (!end_ && socket_) {
        auto got = receive_with_fds(socket_.get(), buffer);
        if (!got && got.error().code == ErrorCode::again) {
            return;
        }
        if (!got || got->bytes == 0) {
            end_ = true;
            return;
        }
        for (Fd& fd : got->fds) {
            fds.push_back(std::move(fd));
        }
        stream_.feed({buffer.data(), got->bytes});
    }
}

std::string Peer::next_text() {
    (void)run_until(io_, [&] {
        read_some();
        return stream_.has_next() || end_;
    });
    auto frame = stream_.next();
    return frame ? frame->text : std::string{};
}

json Peer::next() {
    return json::parse(next_text(), nullptr, false);
}

json Peer::reply() {
    for (;;) {
        json message = next();
        if (!message.is_object() || !message.contains("event")) {
            return message;
        }
        events.push_back(std::move(message));
    }
}

bool Peer::closed() {
    return run_until(io_, [&] {
        read_some();
        return end_;
    });
}

bool Peer::quiet() {
    // Whatever is pending is done after a few rounds in which nothing was ready.
    for (int idle = 0; idle < 3;) {
        io_.restart();
        idle = io_.run_for(std::chrono::milliseconds{5}) == 0 ? idle + 1 : 0;
    }
    read_some();
    return !stream_.has_next() && !end_;
}

void Peer::shut_writing() {
    ::shutdown(socket_.get(), SHUT_WR);
}

Bench::Bench() {
    std::string pattern = (std::filesystem::temp_directory_path() / "pageferry-monitor-XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    directory = pattern;
}

Bench::~Bench() {
    servers.clear();
    std::filesystem::remove_all(directory);
}

namespace {
sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    EXPECT_LT(path.size(), sizeof address.sun_path);
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return address;
}
} // namespace

QmpServer& Bench::serve(const std::string& name, Fd backend_socket, bool pretty) {
    Fd listening{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    const sockaddr_un address = address_of(directory + "/" + name);
    EXPECT_EQ(::bind(listening.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0); // NOLINT: the socket interface
    EXPECT_EQ(::listen(listening.get(), 4), 0);
    auto backend = QmpBackend::open(io, std::move(backend_socket));
    EXPECT_TRUE(backend.has_value());
    Endpoint endpoint;
    endpoint.in = std::move(listening);
    endpoint.name = name;
    endpoint.pretty = pretty;
    auto server = QmpServer::open(io, std::move(endpoint), std::move(*backend), commands, sink,
                                  [this](const std::string& line) { log.push_back(line); });
    EXPECT_TRUE(server.has_value());
    servers.push_back(std::move(*server));
    return *servers.back();
}

Peer Bench::connect(const std::string& name) {
    Fd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    const sockaddr_un address = address_of(directory + "/" + name);
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0); // NOLINT: the socket interface
    return Peer{io, std::move(socket)};
}

Peer Bench::command_mode(const std::string& name, bool oob) {
    Peer client = connect(name);
    EXPECT_TRUE(client.next().contains("QMP"));
    client.say(command("qmp_capabilities", nullptr, oob ? json{{"enable", {"oob"}}} : json(nullptr)));
    EXPECT_EQ(client.reply(), json({{"return", json::object()}}));
    return client;
}

void greet(Peer& qemu) {
    qemu.send(greeting_text + "\r\n");
    const json asked = qemu.next();
    EXPECT_EQ(asked["execute"], "qmp_capabilities");
    EXPECT_EQ(asked["arguments"], json({{"enable", {"oob"}}}));
    qemu.say({{"return", json::object()}, {"id", asked["id"]}});
}

json command(const std::string& name, const json& id, const json& arguments) {
    json message = {{"execute", name}};
    if (!id.is_null()) {
        message["id"] = id;
    }
    if (!arguments.is_null()) {
        message["arguments"] = arguments;
    }
    return message;
}

} // namespace pageferry::monitor::test
