// Two ends of this transport in one process, over the ABI as a host sees it.
#pragma once

#include "base/fd.h"
#include "transport/abi/pageferry_transport.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::tcp::test {

inline constexpr std::int64_t generous_ms = 60'000; // a wait that ends by itself in every good run

const pf_transport& api();

struct Problem : pf_error {
    Problem() : pf_error{} {
        size = sizeof(pf_error);
        lane = PF_LANE_NONE;
    }
    [[nodiscard]] std::string text() const;
};

pf_options options(std::uint32_t lanes = 2);

class Listener {
public:
    explicit Listener(const std::string& uri = "tcp:127.0.0.1:0", const pf_options& given = options());
    ~Listener();
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

    [[nodiscard]] std::string uri() const;
    [[nodiscard]] std::uint16_t port() const;
    pf_listener* get = nullptr;
};

// An end of a connection; closed with its owner.
class End {
public:
    End() = default;
    ~End() { close(); }
    End(const End&) = delete;
    End& operator=(const End&) = delete;

    void close();
    // For memory given to add(): all of it, block 0.
    int add(std::vector<std::byte>& memory, std::uint32_t access, Problem& problem);
    int send(std::string_view text, std::int64_t timeout_ms = generous_ms);
    // The text; "again", or "status N", where there is none.
    std::string receive(std::int64_t timeout_ms = generous_ms);
    int push(std::uint64_t offset, std::uint64_t length, std::uint64_t cookie = 0);
    int pull(std::uint32_t lane, std::uint64_t offset, std::uint64_t length, std::uint64_t cookie = 0);
    int poll(pf_completion& completion, std::int64_t timeout_ms = generous_ms);
    int fence(std::int64_t timeout_ms = generous_ms);

    pf_connection* get = nullptr;
};

// Both ends connected; GoogleTest failures where that does not work.
class Pair {
public:
    explicit Pair(const std::string& uri = "tcp:127.0.0.1:0", const pf_options& given = options());

    Listener listener;
    End caller;
    End callee;
};

// A caller that speaks by hand.
class RawCaller {
public:
    explicit RawCaller(std::uint16_t port);
    void say(std::span<const std::byte> bytes) const;
    void say(std::string_view text) const;
    // Waits for that many bytes; fewer when the peer closes.
    [[nodiscard]] std::vector<std::byte> hear(std::size_t bytes) const;
    Fd socket;
};

// Different at every eight bytes, repeatable.
void fill(std::vector<std::byte>& memory, std::uint64_t seed);

} // namespace pageferry::tcp::test
