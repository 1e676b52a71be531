// The C++ view of a transport plugin: owners for what the C ABI gives, Result for what it answers.
//
// The rules for threads, time and errors are those of transport/abi/pageferry_transport.h; nothing is added here but types.
#pragma once

#include "base/error.h"
#include "transport/abi/pageferry_transport.h"

#include <array>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace pageferry::transport {

using Milliseconds = std::chrono::milliseconds;
using SessionId = std::array<std::uint8_t, PF_SESSION_BYTES>;

struct Options {
    unsigned lanes = 2;
    Milliseconds dead_peer{10'000};
    Milliseconds handshake{10'000};
    unsigned queue_depth = 0;
    unsigned epoch = 0;
    SessionId session{};
    std::uint64_t memory_bytes = 0; // RAM this side is going to share; 0: not known
};

struct MemoryBlock {
    std::uint32_t block = 0;
    std::string name;
    std::byte* address = nullptr;
    std::uint64_t length = 0;    // bytes
    std::uint64_t page_size = 0; // bytes
    std::uint32_t access = 0;    // PF_MEMORY_*
};

using Progress = std::function<void(pf_phase phase, const std::string& detail)>;

class Connection {
public:
    Connection(std::shared_ptr<const pf_transport> plugin, pf_connection* connection);
    Connection(Connection&&) noexcept;
    Connection& operator=(Connection&&) noexcept;
    ~Connection(); // closes

    Result<void> connect(Milliseconds timeout, const Progress& progress);
    void cancel(); // any thread
    [[nodiscard]] std::string describe() const;

    Result<void> add_memory(std::span<const MemoryBlock> blocks);
    Result<void> prepare(std::span<const pf_extent> extents);
    Result<void> memory_replaced();
    Result<void> revoke_memory(Milliseconds timeout); // what the peer may do; this side's own pushes and pulls go on

    Result<void> send(std::span<const std::byte> message, Milliseconds timeout);
    // The message's bytes within buffer; an empty span when none came in time. buffer holds PF_CONTROL_MAX bytes or more.
    Result<std::span<std::byte>> receive(std::span<std::byte> buffer, Milliseconds timeout);

    // How many of the extents, from the first, were taken; 0: queue full.
    Result<std::size_t> push(std::span<const pf_extent> extents);
    Result<std::size_t> pull(std::uint32_t lane, std::span<const pf_extent> extents);
    // How many completions were written; 0: none in time.
    Result<std::size_t> poll(std::span<pf_completion> completions, Milliseconds timeout);
    Result<void> fence(Milliseconds timeout);
    [[nodiscard]] pf_counters counters() const;

private:
    std::shared_ptr<const pf_transport> plugin_;
    pf_connection* connection_ = nullptr;
};

class Listener {
public:
    Listener(std::shared_ptr<const pf_transport> plugin, pf_listener* listener);
    Listener(Listener&&) noexcept;
    Listener& operator=(Listener&&) noexcept;
    ~Listener(); // closes

    [[nodiscard]] std::string uri() const;
    // No peer in time: an empty optional; *rejected (may be null) then tells of the latest stranger turned away, if there was
    // one.
    Result<std::optional<Connection>> accept(Milliseconds timeout, std::optional<Error>* rejected = nullptr);
    void cancel(); // any thread

private:
    std::shared_ptr<const pf_transport> plugin_;
    pf_listener* listener_ = nullptr;
};

// One loaded plugin. Copies share it; the shared object stays loaded while anything made from it lives.
class Transport {
public:
    explicit Transport(std::shared_ptr<const pf_transport> plugin) : plugin_(std::move(plugin)) {}

    [[nodiscard]] std::string name() const { return plugin_->name; }
    [[nodiscard]] std::string description() const { return plugin_->description; }
    [[nodiscard]] bool pins_memory() const { return (plugin_->traits & PF_TRAIT_PINS_MEMORY) != 0; }
    // The plugin's own table, valid while this or anything made from it lives.
    [[nodiscard]] const pf_transport& abi() const { return *plugin_; }
    [[nodiscard]] Result<void> probe(const std::optional<std::string>& uri) const;
    // What this host has for it: the plugin's own JSON, not parsed. Empty where the plugin tells nothing.
    [[nodiscard]] Result<std::string> inspect() const;
    [[nodiscard]] Result<Listener> listen(const std::string& uri, const Options& options) const;
    [[nodiscard]] Result<Connection> open(const std::string& uri, const Options& options) const;

private:
    std::shared_ptr<const pf_transport> plugin_;
};

} // namespace pageferry::transport
