#include "perf/dirty_scan.h"

#include "memory/dirty_tracker.h"
#include "memory/extent.h"
#include "memory/ram_block.h"
#include "perf/fake_hypervisor.h"
#include "perf/shared_ram.h"

#include <array>
#include <chrono>
#include <fcntl.h>
#include <fstream>
#include <vector>

namespace pageferry::perf {

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

} // namespace

Result<DirtyScanReport> run_dirty_scan(const DirtyScanOptions& options) {
    auto ram = SharedRam::create(options.size);
    if (!ram) {
        return std::unexpected(std::move(ram.error()));
    }
    auto hypervisor = FakeHypervisor::start(ram->file(), options.size, options.populate);
    if (!hypervisor) {
        return std::unexpected(std::move(hypervisor.error()));
    }
    auto block = memory::RamBlock::map({.name = "perf",
                                        .length = options.size,
                                        .page_size = 4096,
                                        .file_offset = 0,
                                        .guest_address = hypervisor->guest_address()},
                                       Fd{::fcntl(ram->file(), F_DUPFD_CLOEXEC, 0)});
    if (!block) {
        return std::unexpected(std::move(block.error()));
    }
    auto tracker = memory::make_dirty_tracker(hypervisor->take_handles());
    if (!tracker) {
        return std::unexpected(std::move(tracker.error()));
    }
    DirtyScanReport report;
    report.tracker = (*tracker)->name();
    report.size = options.size;
    report.populated = options.populate;

    const std::array<const memory::RamBlock*, 1> blocks{&*block};
    const auto begin = Clock::now();
    if (auto started = (*tracker)->start(blocks); !started) {
        return std::unexpected(std::move(started.error()));
    }
    report.start_seconds = since(begin);

    std::vector<double> seconds;
    std::vector<memory::BlockExtent> dirty;
    for (unsigned i = 0; i < options.warm_up + options.runs; ++i) {
        dirty.clear();
        const auto run = Clock::now();
        if (auto collected = (*tracker)->collect(dirty); !collected) {
            return std::unexpected(std::move(collected.error()));
        }
        if (i >= options.warm_up) {
            seconds.push_back(since(run));
            for (const memory::BlockExtent& extent : dirty) {
                report.dirty_bytes += extent.extent.length;
            }
        }
    }
    report.collect_seconds = spread_of(seconds);
    (*tracker)->stop();
    return report;
}

std::uint64_t available_memory() {
    std::ifstream file{"/proc/meminfo"};
    std::string name;
    std::uint64_t value = 0;
    std::string unit;
    while (file >> name >> value >> unit) {
        if (name == "MemAvailable:") {
            return value * 1024;
        }
    }
    return 0;
}

} // namespace pageferry::perf
