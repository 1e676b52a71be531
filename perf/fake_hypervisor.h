// A child process that stands for a hypervisor: it has the RAM mapped, and gives what dirty tracking needs of it.
//
// Threads: the thread that starts it; fork(2) wants no other to exist yet.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "memory/dirty_tracker.h"

#include <sys/types.h>

#include <cstdint>

namespace pageferry::perf {

class FakeHypervisor {
public:
    // The child maps `file` (shared, `length` bytes) and, with `populate`, writes every page once.
    static Result<FakeHypervisor> start(int file, std::uint64_t length, bool populate);
    FakeHypervisor(FakeHypervisor&& other) noexcept;
    FakeHypervisor& operator=(FakeHypervisor&&) = delete;
    FakeHypervisor(const FakeHypervisor&) = delete;
    FakeHypervisor& operator=(const FakeHypervisor&) = delete;
    ~FakeHypervisor(); // ends the child

    [[nodiscard]] std::uint64_t guest_address() const { return guest_address_; }
    memory::TrackingHandles take_handles() { return std::move(handles_); }

private:
    FakeHypervisor() = default;
    pid_t child_ = -1;
    std::uint64_t guest_address_ = 0;
    memory::TrackingHandles handles_;
    Fd channel_; // the child lives as long as this is open
};

} // namespace pageferry::perf
