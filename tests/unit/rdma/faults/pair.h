// Two ends of this transport in one process, on the device of the address 10.77.0.1, and what they must have given back in the
// end.
#pragma once

#include "hooks.h"
#include "transport/abi/pageferry_transport.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::rdma::test {

inline constexpr std::int64_t generous_ms = 60'000; // a wait that ends by itself in every good run
inline constexpr std::uint32_t all_rights =
    PF_MEMORY_PUSH_SOURCE | PF_MEMORY_PUSH_TARGET | PF_MEMORY_PULL_SOURCE | PF_MEMORY_PULL_TARGET;
inline constexpr std::uint64_t page = 4096;
inline constexpr std::uint64_t MiB = std::uint64_t{1} << 20;

const pf_transport& api();

struct Problem : pf_error {
    Problem() : pf_error{} {
        size = sizeof(pf_error);
        lane = PF_LANE_NONE;
    }
    [[nodiscard]] std::string text() const;
    [[nodiscard]] bool says(std::string_view words) const { return text().find(words) != std::string::npos; }
};

pf_options options(std::uint32_t lanes = 1);

// Shared memory, as guest RAM is.
class Ram {
public:
    Ram(std::uint64_t bytes, unsigned char value);
    ~Ram();
    Ram(const Ram&) = delete;
    Ram& operator=(const Ram&) = delete;

    [[nodiscard]] std::span<unsigned char> bytes() const { return {start_, static_cast<std::size_t>(length_)}; }
    [[nodiscard]] bool all(unsigned char value, std::uint64_t from, std::uint64_t length) const;

private:
    unsigned char* start_;
    std::uint64_t length_;
};

class Listener {
public:
    explicit Listener(const pf_options& given = options());
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
    int add(const Ram& ram, std::uint32_t access = all_rights);
    int send(std::string_view text, std::int64_t timeout_ms = generous_ms, Problem* problem = nullptr);
    // The text; "again", or "status N", where there is none.
    std::string receive(std::int64_t timeout_ms = generous_ms);
    // One extent of a page at each offset, with one call.
    int push(const std::vector<std::uint64_t>& offsets, Problem* problem = nullptr);
    int pull(std::uint32_t lane, std::uint64_t offset, Problem* problem = nullptr);
    int poll(std::int64_t timeout_ms = generous_ms, Problem* problem = nullptr); // one completion
    int fence(std::int64_t timeout_ms = generous_ms, Problem* problem = nullptr);
    // Waits for the end of the connection, and answers its error. A failure of the test: it does not come.
    Problem ending();

    pf_connection* get = nullptr;
};

// Both ends connected; GoogleTest failures where that does not work. A connection on a listener that is given.
class Pair {
public:
    explicit Pair(std::uint32_t lanes = 1);
    Pair(const Listener& listener, const pf_options& given);
    // Memory of that size at both ends: the caller's is filled with 'c', the callee's with 'd'.
    void add_memory(std::uint64_t bytes);
    // A page goes over, so that the region around it is registered at both ends.
    void push_a_page(std::uint64_t offset = 0);

    std::unique_ptr<Ram> caller_ram;
    std::unique_ptr<Ram> callee_ram;
    std::unique_ptr<Listener> own_listener;
    End caller;
    End callee;

private:
    void connect(const Listener& listener, const pf_options& given);
};

// Every call that could answer something else answers the error that ended the connection.
void expect_all_answer(End& end, const Problem& why);

// Skipped without the lab's device. After each test everything that the process held before it is all it holds: descriptors,
// threads, and the device's objects.
class RdmaFaults : public testing::Test {
protected:
    void SetUp() override;
    void TearDown() override;
    static Hooks& hooks() { return Hooks::get(); }

private:
    std::string before_;
};

} // namespace pageferry::rdma::test
