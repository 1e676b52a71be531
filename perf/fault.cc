#include "perf/fault.h"

#include "base/scheduling.h"
#include "perf/fault_guest.h"
#include "perf/puller.h"
#include "perf/push_protocol.h"
#include "perf/shared_ram.h"
#include "transport/loader.h"
#include "transport/uri.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace pageferry::perf {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr std::uint64_t page_bytes = 4096;

double seconds_since(steady_clock::time_point begin) {
    return std::chrono::duration<double>(steady_clock::now() - begin).count();
}

class Bench {
public:
    Bench(transport::Connection& connection, SharedRam& ram, FaultGuest& guest, const FaultOptions& options)
        : connection_(connection), guest_(guest), options_(options), order_(ram.length() / page_bytes) {
        for (std::uint64_t i = 0; i < order_.size(); ++i) {
            order_[i] = i;
        }
        std::ranges::shuffle(order_, std::mt19937_64{options.size}); // the same in every run
    }

    // The time of `one` for each of as many pages as count.
    Result<Latency> each(const std::function<Result<void>(std::uint64_t page)>& one) {
        std::vector<double> samples;
        samples.reserve(options_.runs);
        for (std::size_t i = 0; i < std::size_t{options_.warm_up} + options_.runs; ++i) {
            const std::uint64_t page = order_[i % order_.size()];
            const auto begin = steady_clock::now();
            PAGEFERRY_TRY(one(page));
            if (i >= options_.warm_up) {
                samples.push_back(seconds_since(begin));
            }
        }
        return latency_of(samples);
    }

    Result<Latency> read() {
        return each([&](std::uint64_t page) -> Result<void> {
            const std::array want{
                pf_extent{.block = 0, .reserved = 0, .offset = page * page_bytes, .length = page_bytes, .cookie = page}};
            if (const auto taken = connection_.pull(PF_PULL_URGENT, want); !taken) {
                return std::unexpected(taken.error());
            }
            std::array<pf_completion, 1> done{};
            const auto polled = connection_.poll(done, options_.timeout);
            if (!polled) {
                return std::unexpected(polled.error());
            }
            return *polled == 1 && done[0].status == PF_OK ? Result<void>{} : std::unexpected(did_not_come());
        });
    }

    Result<Latency> urgent(std::uint64_t background) {
        constexpr std::uint64_t none = ~std::uint64_t{0};
        std::atomic<std::uint64_t> here = none; // the page that came last; one that nobody asks for at the end
        const auto tell = [&](std::uint64_t offset) {
            here = offset;
            here.notify_one();
        };
        const auto arrived = [&](std::uint64_t offset) -> Result<void> {
            tell(offset);
            return {};
        };
        Puller puller{connection_, background, arrived, [&] { tell(none - 1); }};
        return each([&](std::uint64_t page) -> Result<void> {
            const std::uint64_t offset = page * page_bytes;
            here = none;
            PAGEFERRY_TRY(puller.ask(offset));
            while (here != offset) {
                if (const auto failed = puller.failed()) {
                    return std::unexpected(*failed);
                }
                here.wait(none);
            }
            return {};
        });
    }

    Result<Latency> local() {
        return faults([&](std::uint64_t page) { return guest_.regions().map(0, {.first = page, .count = 1}); });
    }

    Result<Latency> whole(std::uint64_t background, double* rate) {
        std::atomic<bool> over = false;
        const auto arrived = [&](std::uint64_t offset) {
            return guest_.regions().map(0, {.first = offset / page_bytes, .count = 1});
        };
        const auto ended = [&] {
            over = true;
            guest_.regions().interrupt();
        };
        Puller puller{connection_, background, arrived, ended};
        const auto begin = steady_clock::now();
        auto latency = faults([&](std::uint64_t page) { return puller.ask(page * page_bytes); }, &over);
        if (rate != nullptr) {
            *rate = static_cast<double>(puller.background_bytes()) / seconds_since(begin);
        }
        if (const auto failed = puller.failed()) {
            return std::unexpected(*failed);
        }
        return latency;
    }

private:
    // Pages are touched here; each fault is given to `resolve` on a thread of its own. over: pages will not come any more.
    Result<Latency> faults(const std::function<Result<void>(std::uint64_t page)>& resolve,
                           const std::atomic<bool>* over = nullptr) {
        PAGEFERRY_TRY(guest_.zap());
        const auto is_over = [&] { return over != nullptr && *over; };
        std::atomic<bool> stop = false;
        Result<void> handled;
        std::thread handler{[&] {
            ask_for_short_turns();
            std::array<memory::Fault, 16> faults{};
            while (!stop && handled && !is_over()) {
                const auto count = guest_.regions().next(faults, milliseconds{100});
                if (!count) {
                    handled = std::unexpected(count.error());
                }
                for (std::size_t i = 0; handled && count && i < *count; ++i) {
                    handled = resolve(faults[i].page);
                }
            }
            if (!stop) {
                (void)guest_.regions().disarm(); // the one who waits goes on
            }
        }};
        auto latency = each([&](std::uint64_t page) -> Result<void> {
            const bool right = guest_.touch(page) != 0;
            return right && !is_over() ? Result<void>{} : std::unexpected(did_not_come());
        });
        stop = true;
        guest_.regions().interrupt();
        handler.join();
        if (!handled) {
            return std::unexpected(handled.error());
        }
        return latency;
    }

    [[nodiscard]] Error did_not_come() const {
        return make_error(ErrorCode::io, "fault", connection_.describe(), "A page did not arrive");
    }

    transport::Connection& connection_;
    FaultGuest& guest_;
    const FaultOptions& options_;
    std::vector<std::uint64_t> order_;
};

Result<void> fill(FaultReport& report, Bench& bench, const FaultOptions& options) {
    const auto take = [](Latency& into, Result<Latency> measured) -> Result<void> {
        if (!measured) {
            return std::unexpected(std::move(measured.error()));
        }
        into = *measured;
        return {};
    };
    PAGEFERRY_TRY(take(report.read, bench.read()));
    PAGEFERRY_TRY(take(report.urgent, bench.urgent(0)));
    PAGEFERRY_TRY(take(report.local, bench.local()));
    PAGEFERRY_TRY(take(report.whole, bench.whole(0, nullptr)));
    PAGEFERRY_TRY(take(report.urgent_busy, bench.urgent(options.size)));
    return take(report.whole_busy, bench.whole(options.size, &report.background));
}

Result<FaultReport> fault_over(transport::Connection& connection, SharedRam& ram, FaultGuest& guest,
                               const FaultOptions& options) {
    PAGEFERRY_TRY(connection.connect(options.timeout, {}));
    const transport::MemoryBlock block{.block = 0,
                                       .name = "perf",
                                       .address = ram.address(),
                                       .length = options.size,
                                       .page_size = page_bytes,
                                       .access = PF_MEMORY_PULL_TARGET};
    PAGEFERRY_TRY(connection.add_memory({&block, 1}));
    if (auto ready = ask(connection, {{"op", "setup"}, {"size", options.size}, {"pull", true}}, "ready", options.timeout);
        !ready) {
        return std::unexpected(std::move(ready.error()));
    }
    // As in a postcopy that has begun a while ago: all is registered. It is written once, so that no page is missing from the
    // file.
    const pf_extent all{.block = 0, .reserved = 0, .offset = 0, .length = options.size, .cookie = 0};
    PAGEFERRY_TRY(connection.prepare({&all, 1}));
    if (const auto taken = connection.pull(PF_PULL_BULK, {&all, 1}); !taken) {
        return std::unexpected(taken.error());
    }
    std::array<pf_completion, 1> done{};
    if (const auto polled = connection.poll(done, options.timeout); !polled) {
        return std::unexpected(polled.error());
    }
    if (const auto wrong = ram.first_difference()) {
        return std::unexpected(make_error(ErrorCode::io, "compare", connection.describe(),
                                          "the RAM that arrived differs from offset " + std::to_string(*wrong)));
    }
    FaultReport report;
    report.connection = connection.describe();
    Bench bench{connection, ram, guest, options};
    PAGEFERRY_TRY(fill(report, bench, options));
    PAGEFERRY_TRY(say(connection, {{"op", "end"}}, options.timeout));
    return report;
}

} // namespace

Result<FaultReport> run_fault(const FaultOptions& options) {
    auto ram = SharedRam::create(options.size);
    if (!ram) {
        return std::unexpected(std::move(ram.error()));
    }
    PAGEFERRY_TRY(ram->populate());
    auto guest = FaultGuest::make(*ram);
    if (!guest) {
        return std::unexpected(std::move(guest.error()));
    }
    auto plugin = transport::load(std::string{transport::scheme_of(options.uri)});
    if (!plugin) {
        return std::unexpected(std::move(plugin.error()));
    }
    transport::Options how;
    how.lanes = options.lanes;
    how.dead_peer = options.dead_peer;
    how.session.fill(0x70);
    auto connection = plugin->open(options.uri, how);
    if (!connection) {
        return std::unexpected(std::move(connection.error()));
    }
    return fault_over(*connection, *ram, **guest, options);
}

} // namespace pageferry::perf
