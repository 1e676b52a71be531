#include "engine/postcopy/fault_server.h"

#include "base/scheduling.h"

#include <pthread.h>

#include <algorithm>
#include <array>

namespace pageferry::engine {

using std::chrono::steady_clock;

namespace {
constexpr std::chrono::seconds fault_wait{60}; // interrupt() ends it
// Pages that are here and come after the faulting one are mapped with it, as the kernel itself would do: so many bytes.
constexpr std::uint64_t around_bytes = 2 << 20;
} // namespace

void FaultServer::start() {
    thread_ = std::thread{[this] { run(); }};
    pthread_setname_np(thread_.native_handle(), "pf-faults");
}

void FaultServer::stop() {
    if (thread_.joinable()) {
        stop_ = true;
        target_.faults.interrupt();
        thread_.join();
    }
}

void FaultServer::attach(Puller& puller) {
    {
        const std::lock_guard lock{mutex_};
        puller_ = &puller;
    }
    ask_again();
}

void FaultServer::detach() {
    const std::lock_guard lock{mutex_};
    puller_ = nullptr;
}

void FaultServer::ask_again() {
    again_ = true;
    target_.faults.interrupt();
}

std::optional<Error> FaultServer::error() const {
    const std::lock_guard lock{mutex_};
    return error_;
}

void FaultServer::run() {
    ask_for_short_turns();
    std::array<memory::Fault, 64> faults{};
    while (!stop_) {
        const auto count = target_.faults.next(faults, fault_wait);
        Result<void> served = count ? Result<void>{} : std::unexpected(count.error());
        {
            const std::lock_guard lock{mutex_};
            for (std::size_t i = 0; served && i < *count; ++i) {
                served = serve(faults[i]);
            }
            if (served && puller_ != nullptr) {
                if (again_.exchange(false)) {
                    ask_for_wanted();
                }
                puller_->post_requests();
            }
            if (!served) {
                error_ = served.error();
            }
        }
        if (!served) {
            return failed_();
        }
    }
}

Result<void> FaultServer::serve(const memory::Fault& fault) {
    target_.page.postcopy.faults.fetch_add(1, std::memory_order_relaxed);
    const auto& received = target_.pages.received(fault.block);
    if (received.test(fault.page)) {
        return map_around(fault);
    }
    // In this order: whoever receives the page after the second look maps it, and ends what was begun here.
    target_.stats.begin(fault, steady_clock::now());
    target_.pages.wanted(fault.block).set(fault.page);
    if (received.test(fault.page)) {
        target_.pages.wanted(fault.block).clear(fault.page);
        PAGEFERRY_TRY(map_around(fault));
        target_.stats.ended(fault.block, {.first = fault.page, .count = 1}, steady_clock::now());
        return {};
    }
    if (puller_ != nullptr) {
        puller_->request(fault.block, fault.page);
        puller_->go_on_from(fault.block, fault.page + 1);
    }
    return {};
}

Result<void> FaultServer::map_around(const memory::Fault& fault) {
    const std::uint64_t most = std::max<std::uint64_t>(around_bytes / target_.pages.page_size(fault.block), 1);
    const std::uint64_t to_boundary = most - fault.page % most;
    const auto run = target_.pages.received(fault.block).next_set_run(fault.page, to_boundary);
    return target_.faults.map(fault.block, run.value_or(memory::PageRun{.first = fault.page, .count = 1}));
}

void FaultServer::ask_for_wanted() {
    for (std::size_t block = 0; block < target_.blocks.size(); ++block) {
        const auto& wanted = target_.pages.wanted(block);
        for (auto run = wanted.next_set_run(0, wanted.pages()); run;
             run = wanted.next_set_run(run->first + run->count, wanted.pages())) {
            for (std::uint64_t page = run->first; page < run->first + run->count; ++page) {
                if (!target_.pages.received(block).test(page)) {
                    puller_->request(block, page);
                }
            }
        }
    }
}

} // namespace pageferry::engine
