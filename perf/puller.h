// Pulls as the engine's threads do: one thread polls for all, and keeps as many bulk pulls under way as the engine would while
// there is a background; whoever has a fault asks for its page himself.
//
// Threads: its own ("perf-poll"); ask() by one other, the rest by the owner.
#pragma once

#include "base/error.h"
#include "engine/postcopy/pull_window.h"
#include "transport/connection.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace pageferry::perf {

class Puller {
public:
    // Told on the polling thread, of each page that was asked for and is here.
    using Arrived = std::function<Result<void>(std::uint64_t offset)>;
    // ended: told on the polling thread when it gives up, for whoever waits for a page.
    // background: bytes of RAM, from the start again when all of it was pulled; 0: none.
    Puller(transport::Connection& connection, std::uint64_t background, Arrived arrived, std::function<void()> ended);
    ~Puller(); // waits for what is under way
    Puller(const Puller&) = delete;
    Puller& operator=(const Puller&) = delete;

    Result<void> ask(std::uint64_t offset); // 4 KiB
    // What ended the polling; nothing: it goes on.
    [[nodiscard]] std::optional<Error> failed() const;
    [[nodiscard]] std::uint64_t background_bytes() const { return background_bytes_; }

private:
    using Clock = std::chrono::steady_clock;
    struct Bulk {
        std::uint64_t bytes = 0;
        Clock::time_point asked;
    };

    void run();
    Result<void> go_round();
    Result<void> fill();

    transport::Connection& connection_;
    const std::uint64_t background_; // bytes
    const Arrived arrived_;
    const std::function<void()> ended_;
    std::atomic<bool> stop_{false};
    std::atomic<std::size_t> asked_{0}; // under way
    std::atomic<std::uint64_t> background_bytes_{0};
    engine::PullWindow window_;
    std::atomic<Clock::time_point> last_fault_; // asked for
    std::array<Bulk, 256> bulks_{};             // by cookie
    std::vector<std::size_t> free_;
    std::uint64_t under_way_ = 0; // bytes of them
    std::uint64_t next_ = 0;
    mutable std::mutex mutex_;
    std::optional<Error> failed_;
    std::thread thread_;
};

} // namespace pageferry::perf
