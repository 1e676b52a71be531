// The mover's end of the link: the engine's guest, as the monitor process controls it.
//
// Threads: the guest's functions by the engine's thread; deliver(), cancel() and lost() by the main thread.
#pragma once

#include "engine/guest.h"
#include "hypervisor/link/link.h"
#include "hypervisor/link/messages.h"

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string_view>

namespace pageferry::hypervisor {

class MonitorPort final : public engine::SourceGuest, public engine::DestinationGuest {
public:
    // report: sends the state changes that were not sent yet. A request must not overtake the state it belongs to.
    MonitorPort(const Link& link, std::function<Result<void>()> report) : link_(link), report_(std::move(report)) {}

    // SourceGuest
    Result<Fd> start_device_save() override;
    Result<bool> stopped(std::chrono::milliseconds wait) override;
    [[nodiscard]] std::chrono::steady_clock::time_point stopped_at() const override;
    Result<bool> continued(std::chrono::milliseconds wait) override;
    Result<void> finish_device_save() override;
    Result<bool> commit() override;
    // DestinationGuest
    Result<Fd> start_device_load() override;
    Result<bool> loaded(std::chrono::milliseconds wait) override;
    Result<void> drop_mappings() override;
    Result<void> run(bool running) override;

    // A message from the monitor process that is for the engine's waits: reply, guest, continue.
    void deliver(LinkMessage message);
    // Every wait under way and every later one answers `cancelled`.
    void cancel();
    // The monitor process is gone, and with it the guest's owner.
    void lost();

private:
    Result<Fd> ask_for_stream(std::string_view what);
    Result<LinkMessage> ask(std::string_view what, nlohmann::json details = nlohmann::json::object());
    Result<bool> wait_for(const bool& flag, std::chrono::milliseconds wait);
    void end(Error error);

    const Link& link_;
    std::function<Result<void>()> report_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::uint64_t asked_ = 0;
    std::optional<LinkMessage> reply_;
    std::optional<Error> guest_error_; // the hypervisor's own migration failed
    std::optional<Error> end_;
    bool stopped_ = false;
    std::chrono::steady_clock::time_point stopped_at_;
    bool continued_ = false;
    bool loaded_ = false;
};

} // namespace pageferry::hypervisor
