// Carries the hypervisor's own migration stream between its local socket and the control lane: out of it on the source, into it
// on the destination.
//
// A thread of its own ("pf-device") reads the socket and gives what comes to the sink, and writes to the socket what it is told
// to write. Threads: write(), hold(), release(), drain() and ended() by any; the sink is called on the relay's thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

namespace pageferry::engine {

class DeviceRelay {
public:
    // Takes bytes that came out of the socket. An error ends the relay, and drain() answers it.
    using Sink = std::function<Result<void>(std::span<const std::byte>)>;
    // What may wait to be written: device state held back for the switchover. More than this is no device state.
    static constexpr std::uint64_t most_held = 1ULL << 30; // bytes

    static Result<std::unique_ptr<DeviceRelay>> create(Fd socket, Sink sink);
    ~DeviceRelay(); // ends the thread and closes the socket
    DeviceRelay(const DeviceRelay&) = delete;
    DeviceRelay& operator=(const DeviceRelay&) = delete;

    // Starts the thread: only from here on anything moves.
    Result<void> begin();
    // Queues bytes for the socket; they go at once unless held.
    Result<void> write(std::vector<std::byte> bytes);
    void hold();    // what is written from now on waits
    void release(); // what waited goes
    // Everything that was in the socket when this was called has been taken by the sink.
    Result<void> drain(std::chrono::milliseconds timeout);

    [[nodiscard]] std::uint64_t bytes_read() const;
    [[nodiscard]] std::uint64_t bytes_written() const; // queued ones included

private:
    DeviceRelay(Fd socket, Fd wake, Sink sink);
    void run();
    bool read_all(); // false: the relay is over
    bool write_some();
    void fail(Error error);
    void wake() const;

    Fd socket_;
    Fd wake_; // eventfd
    Sink sink_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::vector<std::byte>> waiting_; // held
    std::deque<std::vector<std::byte>> outgoing_;
    std::size_t outgoing_offset_ = 0;
    std::uint64_t read_ = 0;
    std::uint64_t written_ = 0;
    std::uint64_t waiting_bytes_ = 0;
    std::uint64_t drain_asked_ = 0;
    std::uint64_t drain_done_ = 0;
    bool held_ = false;
    bool stop_ = false;
    bool eof_ = false;
    std::optional<Error> error_;
    std::thread thread_;
};

} // namespace pageferry::engine
