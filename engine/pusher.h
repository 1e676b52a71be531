// Pushes pending pages over a connection: batched, paced, and with every completion accounted for.
//
// Threads: the engine's own. The connection's cancel() ends every wait in here.
#pragma once

#include "engine/control_page.h"
#include "engine/pacer.h"
#include "engine/pending_pages.h"
#include "engine/rate_window.h"
#include "transport/connection.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

namespace pageferry::engine {

class Pusher {
public:
    static constexpr std::uint64_t extent_bytes =
        2 << 20; // longest extent, but for larger pages: long enough to be cheap, short enough to be spread over lanes
    static constexpr std::size_t in_flight = 256; // extents
    static constexpr std::size_t batch = 16;      // extents in one push

    Pusher(transport::Connection& connection, Progress& progress, const Limits& limits);

    // Pushes until nothing is pending and every push is completed. Pages whose push did not complete are pending again on
    // failure. paced: max-bandwidth holds; not while the guest stands still.
    // until: once it is true nothing more is taken, and what is pending stays so.
    Result<void> push_all(PendingPages& pending, bool paced, const std::function<bool()>& until = {});
    // What was pushed has landed.
    Result<void> fence(std::chrono::milliseconds timeout) { return connection_.fence(timeout); }

    [[nodiscard]] std::uint64_t bytes_pushed() const { return bytes_pushed_; }

private:
    Result<void> fill_batch(PendingPages& pending, bool paced, const std::function<bool()>& until);
    Result<void> post_batch();
    Result<void> collect(std::chrono::milliseconds wait);
    void put_back(PendingPages& pending);
    void account(std::uint64_t bytes);

    transport::Connection& connection_;
    Progress& progress_;
    const Limits& limits_;
    Pacer pacer_;
    std::array<memory::BlockExtent, in_flight> slots_{}; // by cookie
    std::vector<std::uint32_t> free_slots_;
    std::array<pf_extent, batch> batch_{};
    std::size_t batch_size_ = 0;
    std::uint64_t bytes_pushed_ = 0;
    RateWindow rate_;
};

} // namespace pageferry::engine
