// The other end of a monitor connection, as a test wants it: a listening local socket and a script that runs on a thread.
#pragma once

#include "base/fd.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>

namespace pageferry::cli {

// A directory of its own, removed with what is in it.
class TemporaryDirectory {
public:
    TemporaryDirectory() {
        std::string form = ::testing::TempDir() + "/pageferry-cli-XXXXXX";
        path_ = ::mkdtemp(form.data());
    }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    ~TemporaryDirectory() {
        ::unlink((path_ + "/qmp").c_str());
        ::rmdir(path_.c_str());
    }
    [[nodiscard]] std::string socket() const { return path_ + "/qmp"; }

private:
    std::string path_;
};

// One client of the fake monitor, served by the script.
class Peer {
public:
    explicit Peer(int socket) : socket_(socket) {}
    void say_text(const std::string& text) const { (void)::send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL); }
    void say(const nlohmann::json& message) const { say_text(message.dump() + "\r\n"); }
    // The next command; null when the client is gone.
    nlohmann::json hear() {
        for (;;) {
            if (const auto end = unread_.find('\n'); end != std::string::npos) {
                auto message = nlohmann::json::parse(unread_.substr(0, end), nullptr, false);
                unread_.erase(0, end + 1);
                return message;
            }
            std::array<char, 4096> bytes{};
            const ssize_t got = ::recv(socket_.get(), bytes.data(), bytes.size(), 0);
            if (got <= 0) {
                return {};
            }
            unread_.append(bytes.data(), static_cast<std::size_t>(got));
        }
    }
    void greet() {
        say(nlohmann::json{{"QMP", {{"version", {{"package", "fake"}}}, {"capabilities", nlohmann::json::array()}}}});
        answer(hear(), nlohmann::json::object());
    }
    void answer(const nlohmann::json& command, const nlohmann::json& value) const {
        say(nlohmann::json{{"return", value}, {"id", command["id"]}});
    }
    void refuse(const nlohmann::json& command, const std::string& text) const {
        say(nlohmann::json{{"error", {{"class", "GenericError"}, {"desc", text}}}, {"id", command["id"]}});
    }
    void event(const std::string& name, const nlohmann::json& data, std::int64_t seconds = 0) const {
        say(nlohmann::json{{"event", name}, {"data", data}, {"timestamp", {{"seconds", seconds}, {"microseconds", 5}}}});
    }
    void status(const std::string& status) const { event("MIGRATION", {{"status", status}}); }

private:
    Fd socket_;
    std::string unread_;
};

class FakeMonitor {
public:
    // Serves one client with the script, then closes.
    explicit FakeMonitor(std::function<void(Peer&)> script) : listener_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        const std::string path = directory_.socket();
        std::memcpy(address.sun_path, path.data(), path.size());
        EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
        EXPECT_EQ(::listen(listener_.get(), 1), 0);
        thread_ = std::thread([this, script = std::move(script)] {
            if (const int client = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC); client >= 0) {
                Peer peer{client};
                script(peer);
            }
        });
    }
    FakeMonitor(const FakeMonitor&) = delete;
    FakeMonitor& operator=(const FakeMonitor&) = delete;
    ~FakeMonitor() {
        ::shutdown(listener_.get(), SHUT_RDWR); // a script nobody came to
        thread_.join();
    }
    [[nodiscard]] std::string address() const { return directory_.socket(); }

private:
    TemporaryDirectory directory_;
    Fd listener_;
    std::thread thread_;
};

inline std::chrono::steady_clock::time_point in(std::chrono::milliseconds time) {
    return std::chrono::steady_clock::now() + time;
}
inline std::chrono::steady_clock::time_point soon() {
    return in(std::chrono::seconds{30});
}

} // namespace pageferry::cli
