// A transport for tests of what lies above the seam: two ends in one process whose control lane is a pair of queues. It moves no
// pages.
#pragma once

#include "transport/connection.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace pageferry::transport::fake {

// What the two ends share, and what a test may turn.
struct Wire {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::vector<std::byte>> toward[2]; // messages for end 0 and end 1
    bool closed[2] = {false, false};
    bool cancelled[2] = {false, false};
    bool full[2] = {false, false}; // sends of this end are not taken
    std::size_t sent[2] = {0, 0};  // messages taken from each end
};

std::pair<Connection, Connection> pair(const std::shared_ptr<Wire>& wire);

// Bytes that no Channel would send, for one end.
void inject(Wire& wire, int end, std::vector<std::byte> bytes);

} // namespace pageferry::transport::fake
