// Two sides of a postcopy in one process, over the real TCP plugin, for the tests of it: real files, real dirty tracking, real
// userfaultfds of child processes in the hypervisors' roles. Between the two there is a relay that can be cut.
//
// The destination's machine and page map outlive a Destination, the source's machine outlives a Source or Recovery, as they
// outlive a mover.
#pragma once

#include "engine/destination.h"
#include "engine/recovery.h"
#include "engine/source.h"
#include "tests/unit/engine/fake_guests.h"
#include "tests/unit/engine/relay.h"
#include "transport/loader.h"

#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace pageferry::engine::testing {

std::vector<std::string> taken(statemachine::EventQueue& events); // names of the statuses, in order
// Within what a test may take at the most on a machine that has much else to do.
[[nodiscard]] bool soon(const std::function<bool()>& holds);
// QEMU's own events of a scenario (tests/data/qemu-11.1-traces.json): "src" or "dst".
std::vector<std::string> traced(const std::string& scenario, const std::string& side);
// from, from + 1, ...: count page numbers
std::vector<std::uint64_t> pages(std::uint64_t from, std::uint64_t count);

class PostcopyPair : public ::testing::Test {
protected:
    static constexpr std::uint8_t session = 7; // every byte of its id

    void SetUp() override;
    void TearDown() override;
    virtual memory::testing::PageKind kind() { return memory::testing::small_pages; }

    // Pages of the two blocks; the last eighth of each is never touched by the source's guest.
    [[nodiscard]] std::uint64_t pages_of(std::size_t block) const { return source_process_->block(block).pages(); }
    [[nodiscard]] std::uint64_t touched_of(std::size_t block) const { return pages_of(block) - pages_of(block) / 8; }
    [[nodiscard]] std::uint64_t page_size() const { return source_process_->block(0).info().page_size; }
    void fill_source();
    // At the switchover nothing of these has reached the destination: the guest writes them when its device state is being
    // saved, and asks for postcopy.
    void leave_for_postcopy(std::vector<std::vector<std::uint64_t>> of_blocks);
    void leave_all_for_postcopy();

    PostcopyMeans means(const std::vector<memory::RamBlock>& blocks);
    void make_destination(bool postcopy = true, std::optional<Unsettled> unsettled = {});
    void start_destination();
    void make_source(const std::string& uri, bool postcopy = true, bool pause_before_switchover = false);
    void start_source();
    // Both, by the relay; all is left for postcopy, and it goes so slowly that it does not end. The guest runs there.
    void start_slow_postcopy();
    // A new attempt, as by `migrate resume=true`.
    Recovery& make_recovery(const std::string& uri);
    // It succeeds, and all is done on both sides.
    void recover_to_the_end();
    // It began to be recovered by the source, and that did not come to anything.
    void expect_attempt_in_vain(const Result<void>& attempt);
    void pause_both(); // at the source, under way
    [[nodiscard]] bool both_paused() const;
    // What a touch has read; empty: it waits.
    [[nodiscard]] std::optional<std::uint64_t> word(std::size_t touch) const { return destination_process_->touched(touch); }
    // Waits for the ends of both sides' runs.
    void expect_done();
    // The destination's RAM is the source's, but for what its own guest has written where it went.
    void expect_same_ram();
    [[nodiscard]] std::uint64_t missing_bytes() const; // as the page map says
    [[nodiscard]] std::vector<std::string> turned_away();

    std::vector<Candidate> by(const transport::Transport& transport, const std::string& uri) {
        return {Candidate{.uri = uri, .transport = transport}};
    }

    std::optional<transport::Transport> tcp_;
    std::optional<transport::Transport> source_tcp_, destination_tcp_; // with functions replaced, where a test wants that
    transport::Options options_;
    std::unique_ptr<memory::testing::HypervisorProcess> source_process_, destination_process_;
    std::unique_ptr<FakeSourceGuest> source_guest_;
    FakeDestinationGuest destination_guest_;
    std::atomic<int> runs_{0};                       // of the guest at the destination
    std::atomic<std::uint64_t> missing_at_first_{0}; // bytes, when pulling began
    std::function<void()> on_run_;
    Telling telling_{.while_stopped = std::chrono::hours{1}, .part_bytes = Telling{}.part_bytes}; // all of it, on any machine
    ControlPage source_page_, destination_page_;
    statemachine::EventQueue source_events_, destination_events_;
    statemachine::Machine source_machine_{statemachine::Side::source, source_events_};
    statemachine::Machine destination_machine_{statemachine::Side::destination, destination_events_};
    std::unique_ptr<Destination> destination_;
    std::unique_ptr<Source> source_;
    std::unique_ptr<Recovery> recovery_;
    std::uint32_t epoch_ = 0;
    std::string uri_; // of the destination itself
    std::unique_ptr<Relay> relay_;
    Fd page_map_file_;
    std::future<Result<void>> source_done_, destination_done_;

private:
    std::unique_ptr<memory::testing::HugePages> reserved_;
    std::mutex mutex_;
    std::vector<Error> turned_away_;
};

} // namespace pageferry::engine::testing
