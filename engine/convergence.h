// When precopy may end: what is left must be pushed within the downtime limit at the bandwidth that was measured.
//
// Pure arithmetic; one thread.
#pragma once

#include <chrono>
#include <cstdint>

namespace pageferry::engine {

class Convergence {
public:
    // So many bytes were pushed in so much time, without pauses of the pacer's making being left out.
    void pushed(std::uint64_t bytes, std::chrono::nanoseconds took);
    // Bytes per second; 0 until something was measured.
    [[nodiscard]] std::uint64_t bandwidth() const { return bandwidth_; }
    // How long the guest would stand still for so many bytes. `fixed` overrides the measured bandwidth
    // (avail-switchover-bandwidth), 0: does not.
    [[nodiscard]] std::chrono::milliseconds expected_downtime(std::uint64_t bytes, std::uint64_t fixed) const;
    [[nodiscard]] bool converged(std::uint64_t bytes, std::uint64_t fixed, std::chrono::milliseconds limit) const;

private:
    std::uint64_t bandwidth_ = 0;
};

} // namespace pageferry::engine
