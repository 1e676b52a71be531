// lab-reconnect serve|call ADDRESS PORT
//
// What recovery does when an RDMA path dies: both ends notice, close the connection, and go on over TCP (PORT + 1). The caller
// pushes into the server and pulls from it until its connection ends. Both say, a line each: "moving", "ended: WHY", "closed in N
// ms" (how long close() took, at each end), "tcp works" (a MiB was moved and compared, and a message answered). Exit status 0: it
// came to that.
//
// Threads: one, and the transports' own.
#include "transport/loader.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

using namespace pageferry;
using transport::Connection;
using transport::Milliseconds;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t ram_bytes = std::uint64_t{16} << 20;
constexpr std::uint64_t piece = std::uint64_t{256} << 10;
constexpr Milliseconds patience{60'000};
constexpr std::uint32_t rights = PF_MEMORY_PUSH_SOURCE | PF_MEMORY_PUSH_TARGET | PF_MEMORY_PULL_SOURCE | PF_MEMORY_PULL_TARGET;

void say(const std::string& line) {
    std::puts(line.c_str());
    std::fflush(stdout);
}

template <class T>
T must(Result<T> result) {
    if (!result) {
        std::fprintf(stderr, "%s\n", result.error().to_string().c_str());
        std::_Exit(1);
    }
    if constexpr (!std::is_void_v<T>) {
        return std::move(*result);
    }
}

transport::Options options() {
    transport::Options given;
    given.dead_peer = Milliseconds{5000};
    given.session.fill(0x72);
    return given;
}

transport::MemoryBlock ram() {
    static std::byte* const memory = [] {
        void* const made = ::mmap(nullptr, ram_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        return made == MAP_FAILED ? nullptr : static_cast<std::byte*>(made);
    }();
    return {.block = 0, .name = "ram", .address = memory, .length = ram_bytes, .page_size = 4096, .access = rights};
}

transport::Listener listen(const char* scheme, const std::string& host, int port) {
    const auto plugin = must(transport::load(scheme));
    return must(plugin.listen(scheme + (":" + host + ":" + std::to_string(port)), options()));
}

Connection accept(transport::Listener& listener) {
    auto peer = must(listener.accept(patience));
    if (!peer) {
        std::fputs("nobody connected\n", stderr);
        std::_Exit(1);
    }
    return std::move(*peer);
}

Connection connect(const char* scheme, const std::string& host, int port) {
    const auto plugin = must(transport::load(scheme));
    const auto until = Clock::now() + patience;
    for (;;) {
        auto made = must(plugin.open(scheme + (":" + host + ":" + std::to_string(port)), options()));
        auto connected = made.connect(patience, {});
        if (connected) {
            return made;
        }
        if (Clock::now() > until) {
            must(std::move(connected));
        }
        std::this_thread::sleep_for(Milliseconds{200}); // the cable may be out
    }
}

// Until the connection has ended, which it answers.
Error move(Connection& connection, std::uint64_t rounds) {
    std::array<pf_completion, 64> done{};
    for (std::uint64_t i = 0; i < rounds; ++i) {
        const std::uint64_t at = i * piece % ram_bytes;
        const std::array<pf_extent, 1> one{pf_extent{.block = 0, .reserved = 0, .offset = at, .length = piece, .cookie = i}};
        for (const bool pushing : {true, false}) {
            if (const auto begun = pushing ? connection.push(one) : connection.pull(PF_PULL_BULK, one); !begun) {
                return begun.error();
            }
        }
        if (i == 16) {
            say("moving");
        }
        if (const auto polled = connection.poll(done, Milliseconds{1000}); !polled) {
            return polled.error();
        }
    }
    return Error{};
}

void close(std::optional<Connection>& connection) {
    const auto begin = Clock::now();
    connection.reset();
    const auto took = std::chrono::duration_cast<Milliseconds>(Clock::now() - begin);
    say("closed in " + std::to_string(took.count()) + " ms");
}

// What comes next on the control lane; the error that ended the connection.
Result<std::string> hear(Connection& connection) {
    std::vector<std::byte> buffer(PF_CONTROL_MAX);
    const auto until = Clock::now() + 2 * patience;
    while (Clock::now() < until) {
        const auto got = connection.receive(buffer, Milliseconds{1000});
        if (!got) {
            return std::unexpected(got.error());
        }
        if (!got->empty()) {
            return std::string{reinterpret_cast<const char*>(got->data()), got->size()};
        }
    }
    return std::unexpected(make_error(ErrorCode::timed_out, "receive", "lab-reconnect", "nothing came"));
}

int serve(const std::string& host, int port) {
    auto rdma = listen("rdma", host, port);
    auto tcp = listen("tcp", host, port + 1);
    say("listening");
    const auto block = ram();
    std::optional<Connection> connection = accept(rdma);
    must(connection->add_memory({&block, 1}));
    const auto end = hear(*connection);
    say("ended: " + (end ? "by a message" : end.error().to_string()));
    close(connection);
    const std::span memory{block.address, ram_bytes};
    std::ranges::fill(memory, std::byte{0x11}); // the old connection changes it no more
    connection = accept(tcp);
    must(connection->add_memory({&block, 1}));
    const std::string asked = must(hear(*connection));
    const std::span first = memory.first(1 << 20);
    const bool right = std::ranges::all_of(first, [](std::byte one) { return one == std::byte{0x22}; }) &&
                       std::ranges::all_of(memory.subspan(1 << 20), [](std::byte one) { return one == std::byte{0x11}; });
    must(connection->send(std::as_bytes(std::span{right ? "right" : "wrong"}), patience));
    say(right ? "tcp works" : "tcp brought the wrong bytes");
    (void)hear(*connection); // until the caller closes
    connection.reset();
    say("done");
    return right ? 0 : 1;
}

int call(const std::string& host, int port) {
    const auto block = ram();
    std::optional<Connection> connection = connect("rdma", host, port);
    must(connection->add_memory({&block, 1}));
    const Error why = move(*connection, ~std::uint64_t{0});
    say("ended: " + why.to_string());
    close(connection);
    std::ranges::fill(std::span{block.address, ram_bytes}, std::byte{0x22});
    connection = connect("tcp", host, port + 1);
    must(connection->add_memory({&block, 1}));
    const std::array<pf_extent, 1> one{pf_extent{.block = 0, .reserved = 0, .offset = 0, .length = 1 << 20, .cookie = 1}};
    must(connection->push(one));
    must(connection->fence(patience));
    must(connection->send(std::as_bytes(std::span{"look"}), patience));
    const bool right = must(hear(*connection)).starts_with("right");
    connection.reset();
    say(right ? "tcp works" : "tcp brought the wrong bytes");
    say("done");
    return right ? 0 : 1;
}

} // namespace

int main(int argc, char** argv) {
    if (argc != 4 || ram().address == nullptr) {
        std::fputs("usage: lab-reconnect serve|call ADDRESS PORT\n", stderr);
        return 2;
    }
    const int port = std::atoi(argv[3]);
    return std::string_view{argv[1]} == "serve" ? serve(argv[2], port) : call(argv[2], port);
}
