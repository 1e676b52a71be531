#include "pair.h"

#include "tcp_fallback/abi.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <charconv>
#include <cstring>
#include <thread>

namespace pageferry::tcp::test {

const pf_transport& api() {
    return *transport_table(PF_TRANSPORT_ABI_VERSION);
}

std::string Problem::text() const {
    return "status " + std::to_string(status) + " lane " + std::to_string(lane) + " phase " + std::to_string(phase) + ": " +
           operation + " " + object + " (" + peer + "): " + reason + "; " + remedy;
}

pf_options options(std::uint32_t lanes) {
    pf_options given{};
    given.size = sizeof given;
    given.lanes = lanes;
    given.dead_peer_ms = 10'000;
    given.handshake_ms = 10'000;
    return given;
}

Listener::Listener(const std::string& uri, const pf_options& given) {
    Problem problem;
    EXPECT_EQ(api().listen(uri.c_str(), &given, &get, &problem), PF_OK) << problem.text();
}

Listener::~Listener() {
    if (get != nullptr) {
        api().close_listener(get);
    }
}

std::string Listener::uri() const {
    std::array<char, 256> text{};
    EXPECT_EQ(api().listener_uri(get, text.data(), text.size()), PF_OK);
    return text.data();
}

std::uint16_t Listener::port() const {
    const std::string text = uri();
    std::uint16_t port = 0;
    std::from_chars(text.data() + text.rfind(':') + 1, text.data() + text.size(), port);
    return port;
}

void End::close() {
    if (get != nullptr) {
        api().close(get);
        get = nullptr;
    }
}

int End::add(std::vector<std::byte>& memory, std::uint32_t access, Problem& problem) {
    pf_memory_block block{};
    block.size = sizeof block;
    block.name = "ram";
    block.address = memory.data();
    block.length = memory.size();
    block.page_size = 4096;
    block.access = access;
    return api().add_memory(get, &block, 1, &problem);
}

int End::send(std::string_view text, std::int64_t timeout_ms) {
    return api().send(get, text.data(), text.size(), timeout_ms, nullptr);
}

std::string End::receive(std::int64_t timeout_ms) {
    std::vector<char> buffer(PF_CONTROL_MAX);
    std::size_t length = 0;
    const int status = api().receive(get, buffer.data(), buffer.size(), &length, timeout_ms, nullptr);
    if (status == PF_AGAIN) {
        return "again";
    }
    return status == PF_OK ? std::string{buffer.data(), length} : "status " + std::to_string(status);
}

int End::push(std::uint64_t offset, std::uint64_t length, std::uint64_t cookie) {
    const pf_extent extent{.block = 0, .reserved = 0, .offset = offset, .length = length, .cookie = cookie};
    std::size_t accepted = 0;
    return api().push(get, &extent, 1, &accepted, nullptr);
}

int End::pull(std::uint32_t lane, std::uint64_t offset, std::uint64_t length, std::uint64_t cookie) {
    const pf_extent extent{.block = 0, .reserved = 0, .offset = offset, .length = length, .cookie = cookie};
    std::size_t accepted = 0;
    return api().pull(get, lane, &extent, 1, &accepted, nullptr);
}

int End::poll(pf_completion& completion, std::int64_t timeout_ms) {
    std::size_t count = 0;
    return api().poll(get, &completion, 1, &count, timeout_ms, nullptr);
}

int End::fence(std::int64_t timeout_ms) {
    return api().fence(get, timeout_ms, nullptr);
}

Pair::Pair(const std::string& uri, const pf_options& given) : listener(uri, given) {
    Problem problem;
    EXPECT_EQ(api().open(listener.uri().c_str(), &given, &caller.get, &problem), PF_OK) << problem.text();
    std::thread accepting{[&] {
        Problem failed;
        EXPECT_EQ(api().accept(listener.get, generous_ms, &callee.get, nullptr, &failed), PF_OK) << failed.text();
    }};
    EXPECT_EQ(api().connect(caller.get, generous_ms, nullptr, nullptr, &problem), PF_OK) << problem.text();
    accepting.join();
}

RawCaller::RawCaller(std::uint16_t port) : socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
}

void RawCaller::say(std::span<const std::byte> bytes) const {
    EXPECT_EQ(::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
}

void RawCaller::say(std::string_view text) const {
    say(std::as_bytes(std::span{text}));
}

std::vector<std::byte> RawCaller::hear(std::size_t bytes) const {
    std::vector<std::byte> heard(bytes);
    const ssize_t got = ::recv(socket.get(), heard.data(), heard.size(), MSG_WAITALL);
    heard.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
    return heard;
}

void fill(std::vector<std::byte>& memory, std::uint64_t seed) {
    for (std::size_t at = 0; at + sizeof seed <= memory.size(); at += sizeof seed) {
        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        std::memcpy(&memory[at], &seed, sizeof seed);
    }
}

} // namespace pageferry::tcp::test
