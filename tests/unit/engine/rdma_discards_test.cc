// A guest whose memory is taken away and given back all the time moves over real verbs, in the lab (./dev lab --
// test_rdma_discards): what RDMA has pinned of it is not what the guest writes.
#include "engine/destination.h"
#include "engine/source.h"
#include "tests/unit/engine/fake_guests.h"
#include "transport/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <future>
#include <numeric>
#include <random>
#include <thread>

namespace pageferry::engine {
namespace {

using memory::testing::HypervisorProcess;
using statemachine::Side;
using statemachine::Status;
using testing::again;

constexpr const char* address = "rdma:10.77.0.1:0";
constexpr std::uint64_t page = 4096;
constexpr std::uint64_t pages = 2048;
const std::vector<memory::testing::BlockSpec> one_block{{.name = "ram0", .pages = pages}};

// Until the guest is stopped, a thread discards stretches of its memory and writes them, as QEMU and a guest do.
class RestlessGuest final : public SourceGuest {
public:
    RestlessGuest(HypervisorProcess& process, DiscardCounters& counters)
        : process_(process), guest_(process), counters_(counters), thread_([this] { run(); }) {}
    ~RestlessGuest() override { stop(); }
    RestlessGuest(const RestlessGuest&) = delete;
    RestlessGuest& operator=(const RestlessGuest&) = delete;

    Result<Fd> start_device_save() override {
        stop();
        return guest_.start_device_save();
    }
    Result<bool> stopped(std::chrono::milliseconds wait) override { return guest_.stopped(wait); }
    [[nodiscard]] std::chrono::steady_clock::time_point stopped_at() const override { return guest_.stopped_at(); }
    Result<bool> continued(std::chrono::milliseconds wait) override { return guest_.continued(wait); }
    Result<void> finish_device_save() override {
        discard_and_write(17, 3); // the last word, when the guest stands still
        return guest_.finish_device_save();
    }
    Result<bool> commit() override { return guest_.commit(); }

private:
    void discard_and_write(std::uint64_t first, std::uint64_t count) {
        ++counters_.begun;
        process_.punch(0, first, count);
        ++counters_.ended;
        std::vector<std::uint64_t> numbers(count);
        std::iota(numbers.begin(), numbers.end(), first); // NOLINT(modernize-use-ranges): GCC 12 has no std::ranges::iota
        process_.write(0, numbers);
    }
    void run() {
        std::mt19937_64 random{5};
        while (!stop_) {
            const std::uint64_t count = 1 + random() % 16;
            discard_and_write(random() % (pages - count), count);
        }
    }
    void stop() {
        stop_ = true;
        if (thread_.joinable()) {
            thread_.join();
        }
    }

    HypervisorProcess& process_;
    testing::FakeSourceGuest guest_;
    DiscardCounters& counters_;
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

TEST(RdmaDiscards, AGuestWhoseMemoryIsDiscardedAllTheTimeArrivesAsItIs) {
    const auto rdma = transport::load("rdma");
    if (!rdma || !rdma->probe(address)) {
        GTEST_SKIP() << (rdma ? rdma->probe(address).error() : rdma.error()).to_string();
    }
    HypervisorProcess source_process{page, one_block};
    HypervisorProcess destination_process{page, one_block};
    std::vector<std::uint64_t> all(pages);
    std::iota(all.begin(), all.end(), 0U); // NOLINT(modernize-use-ranges)
    source_process.write(0, all);

    transport::Options options;
    options.dead_peer = std::chrono::seconds{60};
    statemachine::EventQueue events;
    statemachine::Machine destination_machine{Side::destination, events};
    testing::FakeDestinationGuest destination_guest;
    ControlPage destination_page;
    Destination destination{
        DestinationConfig{.blocks = again(destination_process),
                          .reception = {.candidates = {{.uri = address, .transport = *rdma}}, .options = options},
                          .page = &destination_page},
        destination_guest, destination_machine};
    const auto uris = destination.listen();
    ASSERT_TRUE(uris) << uris.error().to_string();
    ASSERT_TRUE(destination_machine.transition(Status::setup, statemachine::Cause::requested));
    auto received = std::async(std::launch::async, [&] { return destination.run(); });

    options.session.fill(7);
    statemachine::Machine source_machine{Side::source, events};
    ControlPage source_page;
    source_page.limits.downtime_limit_ms = 0; // it goes round and round
    DiscardCounters counters;
    RestlessGuest source_guest{source_process, counters};
    auto tracker = memory::make_dirty_tracker(source_process.handles());
    if (!tracker) {
        destination.cancel();
        GTEST_SKIP() << tracker.error().to_string();
    }
    Source source{SourceConfig{.blocks = again(source_process),
                               .tracker = std::move(*tracker),
                               .peer = {.candidates = {{.uri = uris->front(), .transport = *rdma}}, .options = options},
                               .page = &source_page,
                               .discards = &counters},
                  source_guest, source_machine};
    ASSERT_TRUE(source_machine.transition(Status::setup, statemachine::Cause::requested));
    auto sent = std::async(std::launch::async, [&] { return source.run(); });
    while (source_page.progress.dirty_sync_count < 8 &&
           sent.wait_for(std::chrono::milliseconds{5}) == std::future_status::timeout) {
    }
    source_page.limits.downtime_limit_ms = 60'000;
    const auto done = sent.get();
    if (!done) {
        destination.cancel();
    }
    ASSERT_TRUE(done) << done.error().to_string();
    ASSERT_TRUE(received.get());
    EXPECT_GT(counters.begun.load(), 8U);
    const std::byte* const from = source_process.block(0).alias();
    const std::byte* const to = destination_process.block(0).alias();
    const auto old = std::ranges::count_if(
        all, [&](std::uint64_t number) { return std::memcmp(from + number * page, to + number * page, page) != 0; });
    EXPECT_EQ(old, 0) << "pages are not as the guest left them";
}

} // namespace
} // namespace pageferry::engine
