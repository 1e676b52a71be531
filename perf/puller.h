// Pulls as the engine's threads do: one thread polls for all, and keeps bulk pulls under way while there is a background; whoever
// has a fault asks for its page himself.
//
// Threads: its own ("perf-poll"); ask() by one other, the rest by the owner.
#pragma once

#include "base/error.h"
#include "transport/connection.h"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

namespace pageferry::perf {

class Puller {
public:
    // Told on the polling thread, of each page that was asked for and is here.
    using Arrived = std::function<Result<void>(std::uint64_t offset)>;
    struct Background {
        std::uint64_t size = 0; // bytes of RAM; from the start again when all of it was pulled
        std::uint64_t extent = 0;
        std::size_t in_flight = 0; // extents, 0: no background
    };

    // ended: told on the polling thread when it gives up, for whoever waits for a page.
    Puller(transport::Connection& connection, const Background& background, Arrived arrived, std::function<void()> ended);
    ~Puller(); // waits for what is under way
    Puller(const Puller&) = delete;
    Puller& operator=(const Puller&) = delete;

    Result<void> ask(std::uint64_t offset); // 4 KiB
    // What ended the polling; nothing: it goes on.
    [[nodiscard]] std::optional<Error> failed() const;
    [[nodiscard]] std::uint64_t background_bytes() const { return background_bytes_; }

private:
    void run();
    Result<void> go_round();

    transport::Connection& connection_;
    const Background background_;
    const Arrived arrived_;
    const std::function<void()> ended_;
    std::atomic<bool> stop_{false};
    std::atomic<std::size_t> asked_{0}; // under way
    std::atomic<std::uint64_t> background_bytes_{0};
    std::size_t bulk_ = 0; // under way
    std::uint64_t next_ = 0;
    mutable std::mutex mutex_;
    std::optional<Error> failed_;
    std::thread thread_;
};

} // namespace pageferry::perf
