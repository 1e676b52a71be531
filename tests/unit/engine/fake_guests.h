// Both sides' guests for a test of the engine: the source's is a child process that writes pages, the destination's a mapping;
// their "device state" is a text. Everything else (files, userfaultfd, transport, session) is real.
//
// Threads: as engine/guest.h says.
#pragma once

#include "engine/guest.h"
#include "memory/ram_block.h"
#include "tests/unit/memory/hypervisor_process.h"

#include <atomic>
#include <functional>
#include <string>
#include <vector>

namespace pageferry::engine::testing {

inline const std::string device_state(200'000, 'd');

// The blocks of a guest once more, mapped as a mover maps them.
std::vector<memory::RamBlock> again(const memory::testing::HypervisorProcess& process);

class FakeSourceGuest final : public SourceGuest {
public:
    explicit FakeSourceGuest(memory::testing::HypervisorProcess& process) : process_(process) {}

    Result<Fd> start_device_save() override;
    Result<bool> stopped(std::chrono::milliseconds) override { return true; }
    [[nodiscard]] std::chrono::steady_clock::time_point stopped_at() const override { return stopped_at_; }
    Result<bool> continued(std::chrono::milliseconds) override { return may_continue.load(); }
    Result<void> finish_device_save() override;
    Result<bool> commit() override;

    std::function<void()> on_start_save; // the guest still runs
    bool writing = false;                // the child writes until the guest is stopped
    std::vector<std::uint64_t> on_save;  // pages of block 0 that saving device state writes, as virtio devices do
    std::function<Result<void>()> on_commit;
    std::atomic<bool> may_continue{true};
    bool committed = false;

private:
    memory::testing::HypervisorProcess& process_;
    Fd stream_;
    std::chrono::steady_clock::time_point stopped_at_;
};

class FakeDestinationGuest final : public DestinationGuest {
public:
    Result<Fd> start_device_load() override;
    Result<bool> loaded(std::chrono::milliseconds wait) override;
    Result<void> drop_mappings() override { return on_drop ? on_drop() : Result<void>{}; }
    Result<void> run(bool running) override;

    std::function<Result<void>()> on_drop; // the hypervisor forgets what it has mapped; here it has mapped nothing
    std::function<void()> on_load;         // before device state is read: RAM must be final by now
    std::function<Result<void>()> on_run;
    bool ran = false;
    bool ran_running = false;
    std::string state;

private:
    Fd stream_;
};

} // namespace pageferry::engine::testing
