#include "statemachine/machine.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <map>
#include <random>
#include <thread>
#include <vector>

using namespace pageferry;
using namespace pageferry::statemachine;

namespace {

bool is_readable(const EventQueue& queue, int timeout_ms = 0) {
    pollfd entry{.fd = queue.readable_fd(), .events = POLLIN, .revents = 0};
    return ::poll(&entry, 1, timeout_ms) == 1;
}

struct Step {
    Status to;
    Cause cause;
};

// The shortest way to each status, by the table itself; nothing when there is none.
std::map<Status, std::vector<Step>> ways(Side side) {
    std::map<Status, std::vector<Step>> found{{Status::none, {}}};
    std::vector<Status> frontier{Status::none};
    while (!frontier.empty()) {
        std::vector<Status> next;
        for (const Status from : frontier) {
            for (const Transition& row : transitions()) {
                if (row.side == side && row.from == from && !found.contains(row.to)) {
                    found[row.to] = found[from];
                    found[row.to].push_back({row.to, row.cause});
                    next.push_back(row.to);
                }
            }
        }
        frontier = next;
    }
    return found;
}

TEST(Machine, BeginsInNoneWithoutAnEvent) {
    EventQueue queue;
    const Machine machine{Side::destination, queue};
    EXPECT_EQ(machine.status(), Status::none);
    EXPECT_EQ(machine.side(), Side::destination);
    EXPECT_FALSE(queue.take());
    EXPECT_FALSE(is_readable(queue));
}

// Every status that can be reached, with every status to go to and every cause: accepted exactly where the table has it.
TEST(Machine, AcceptsTheTableAndNothingElse) {
    for (const Side side : {Side::source, Side::destination}) {
        std::size_t accepted = 0;
        for (const auto& [from, way] : ways(side)) {
            for (std::size_t i = 0; i < status_count * cause_count; ++i) {
                const auto to = static_cast<Status>(i / cause_count);
                const auto cause = static_cast<Cause>(i % cause_count);
                EventQueue queue;
                Machine machine{side, queue};
                for (const Step& step : way) {
                    ASSERT_TRUE(machine.transition(step.to, step.cause));
                    ASSERT_TRUE(queue.take());
                }
                const bool legal = is_legal(side, from, to, cause);
                accepted += legal ? 1 : 0;
                const auto result = machine.transition(to, cause);
                ASSERT_EQ(result.has_value(), legal) << name_of(from) << " -> " << name_of(to) << " " << name_of(cause);
                ASSERT_EQ(machine.status(), legal ? to : from);
                ASSERT_EQ(queue.take().has_value(), legal);
                if (!legal) {
                    ASSERT_EQ(result.error().code, ErrorCode::state);
                }
            }
        }
        std::size_t in_table = 0;
        for (const Transition& row : transitions()) {
            in_table += row.side == side ? 1 : 0;
        }
        EXPECT_EQ(accepted, in_table);
    }
}

TEST(Machine, ARefusalSaysWhatWasTriedAndWhatIsLegal) {
    EventQueue queue;
    Machine machine{Side::source, queue};
    ASSERT_TRUE(machine.transition(Status::setup, Cause::requested));
    const auto refused = machine.transition(Status::completed, Cause::finished);
    ASSERT_FALSE(refused);
    const std::string text = refused.error().to_string();
    for (const char* part :
         {"source", "from setup", "to completed", "(finished)", "active (connected)", "cancelling (requested)"}) {
        EXPECT_NE(text.find(part), std::string::npos) << part << " in: " << text;
    }
}

TEST(Machine, TransitionFromLosesToAQuickerThread) {
    EventQueue queue;
    Machine machine{Side::source, queue};
    ASSERT_TRUE(machine.transition_from(Status::none, Status::setup, Cause::requested));
    ASSERT_TRUE(machine.transition_from(Status::setup, Status::cancelling, Cause::requested));
    const auto late = machine.transition_from(Status::setup, Status::active, Cause::connected);
    ASSERT_FALSE(late);
    EXPECT_NE(late.error().to_string().find("cancelling by now"), std::string::npos) << late.error().to_string();
    EXPECT_EQ(machine.status(), Status::cancelling);
}

TEST(Machine, KeepsTheErrorUntilTheNextSetup) {
    EventQueue queue;
    Machine machine{Side::source, queue};
    ASSERT_TRUE(machine.transition(Status::setup, Cause::requested));
    ASSERT_TRUE(machine.transition(Status::failing, Cause::error, "connect tcp:host:1: refused"));
    ASSERT_TRUE(machine.transition(Status::failed, Cause::cleaned_up));
    EXPECT_EQ(machine.error(), "connect tcp:host:1: refused");
    (void)queue.take();
    EXPECT_EQ(queue.take()->error, "connect tcp:host:1: refused");
    EXPECT_EQ(queue.take()->error, "");
    ASSERT_TRUE(machine.transition(Status::setup, Cause::requested));
    EXPECT_EQ(machine.error(), "");
}

TEST(Machine, KeepsTheTextOfAPauseUntilTheNextAttemptOrItsEnd) {
    for (const Side side : {Side::source, Side::destination}) {
        EventQueue queue;
        Machine machine{side, queue, Status::postcopy_active};
        ASSERT_TRUE(machine.transition(Status::postcopy_paused, Cause::connection_lost, "receive: the peer has gone"));
        EXPECT_EQ(machine.error(), "receive: the peer has gone");
        if (side == Side::source) {
            ASSERT_TRUE(machine.transition(Status::postcopy_recover_setup, Cause::requested));
            EXPECT_EQ(machine.error(), "");
            ASSERT_TRUE(machine.transition(Status::postcopy_paused, Cause::connection_lost, "connect: nobody is there"));
            EXPECT_EQ(machine.error(), "connect: nobody is there");
            ASSERT_TRUE(machine.transition(Status::postcopy_recover_setup, Cause::requested));
        }
        ASSERT_TRUE(machine.transition(Status::postcopy_recover, Cause::connected));
        EXPECT_EQ(machine.error(), side == Side::source ? "" : "receive: the peer has gone") << "it may not be over yet";
        ASSERT_TRUE(machine.transition(Status::postcopy_active, Cause::connected));
        EXPECT_EQ(machine.error(), "");
        ASSERT_TRUE(machine.transition(Status::postcopy_paused, Cause::requested, "paused by the user"));
        EXPECT_EQ(machine.error(), "paused by the user");
    }
}

// Who waits for the end of a pause waits first and looks again each time: an attempt that fails is no end of it.
TEST(Machine, AWaiterThatLooksAgainSeesAttemptsAsOnePause) {
    EventQueue queue;
    Machine machine{Side::source, queue, Status::postcopy_paused};
    for (int attempt = 0; attempt < 3; ++attempt) {
        ASSERT_TRUE(machine.transition(Status::postcopy_recover_setup, Cause::requested));
        ASSERT_TRUE(machine.transition(Status::postcopy_paused, Cause::connection_lost, "nobody is there"));
    }
    ASSERT_TRUE(machine.transition(Status::postcopy_recover_setup, Cause::requested));
    ASSERT_TRUE(machine.transition(Status::postcopy_recover, Cause::connected));
    int woken = 0;
    std::optional<Event> event;
    do {
        event = queue.take(); // the wait
        ++woken;
        ASSERT_TRUE(event);
    } while (is_paused(event->to));
    EXPECT_EQ(woken, 8);
    EXPECT_EQ(event->to, Status::postcopy_recover);
}

TEST(EventQueue, TheDescriptorIsReadableWhileEventsAreThere) {
    EventQueue queue;
    EXPECT_FALSE(is_readable(queue));
    queue.put(Event{.sequence = 1});
    queue.put(Event{.sequence = 2});
    EXPECT_TRUE(is_readable(queue));
    EXPECT_EQ(queue.take()->sequence, 1U);
    EXPECT_TRUE(is_readable(queue));
    EXPECT_EQ(queue.take()->sequence, 2U);
    EXPECT_FALSE(queue.take());
    EXPECT_FALSE(is_readable(queue));
    queue.put(Event{.sequence = 3}); // left behind: the queue frees it
    EXPECT_TRUE(is_readable(queue));
}

// Several writers race for one machine, and the reader is slower than they are. What the reader sees must be the machine's own
// history: each event starts where the one before it ended, the numbers have no gap, and every accepted change is there.
TEST(EventQueue, LosesAndReordersNothingUnderASlowReader) {
    constexpr std::size_t writers = 6;
    constexpr std::uint64_t wanted = 60'000; // events in all
    EventQueue queue;
    Machine machine{Side::source, queue};
    std::atomic<std::uint64_t> accepted{0};
    std::atomic<std::size_t> running{writers};
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < writers; ++i) {
        threads.emplace_back([&, i] {
            std::mt19937 random{static_cast<std::uint32_t>(i)};
            const auto table = transitions();
            while (accepted.load(std::memory_order_relaxed) < wanted) {
                // A change that is legal from the status seen now; by the time it is tried, another thread may have been there.
                const Transition& row = table[random() % table.size()];
                if (row.side == Side::source && row.from == machine.status() &&
                    machine.transition_from(row.from, row.to, row.cause, "x")) {
                    accepted.fetch_add(1, std::memory_order_relaxed);
                }
            }
            running.fetch_sub(1);
        });
    }
    std::uint64_t seen = 0;
    std::uint64_t behind = 0; // the most events that waited at once
    Status status = Status::none;
    const auto read_one = [&] {
        const auto event = queue.take();
        if (!event) {
            return false;
        }
        EXPECT_EQ(event->sequence, ++seen);
        EXPECT_EQ(event->from, status);
        EXPECT_TRUE(is_legal(Side::source, event->from, event->to, event->cause));
        status = event->to;
        return true;
    };
    while (running.load() > 0) {
        // Deliberately slow: it looks once in a while and takes a few.
        if (is_readable(queue, 1000)) {
            behind = std::max(behind, accepted.load() - std::min(accepted.load(), seen));
            for (int i = 0; i < 3 && read_one(); ++i) {
            }
            std::this_thread::sleep_for(std::chrono::milliseconds{1});
        }
    }
    threads.clear();
    while (read_one()) {
    }
    EXPECT_EQ(seen, accepted.load());
    EXPECT_GE(seen, wanted);
    EXPECT_GT(behind, 100U) << "the reader was not slow: the test shows nothing";
    EXPECT_EQ(status, machine.status());
    EXPECT_FALSE(is_readable(queue));
}

// Two machines, one queue: each machine's own events keep their order.
TEST(EventQueue, IsSharedByMachines) {
    EventQueue queue;
    Machine source{Side::source, queue};
    Machine destination{Side::destination, queue};
    constexpr int rounds = 2000;
    std::jthread writer_a{[&] {
        for (int i = 0; i < rounds; ++i) {
            EXPECT_TRUE(source.transition(Status::setup, Cause::requested));
            EXPECT_TRUE(source.transition(Status::cancelling, Cause::requested));
            EXPECT_TRUE(source.transition(Status::cancelled, Cause::cleaned_up));
        }
    }};
    std::jthread writer_b{[&] {
        EXPECT_TRUE(destination.transition(Status::setup, Cause::requested));
        EXPECT_TRUE(destination.transition(Status::active, Cause::connected));
        EXPECT_TRUE(destination.transition(Status::postcopy_device, Cause::device_saved));
        EXPECT_TRUE(destination.transition(Status::postcopy_active, Cause::device_loaded));
        for (int i = 0; i < rounds; ++i) {
            EXPECT_TRUE(destination.transition(Status::postcopy_paused, Cause::connection_lost));
            EXPECT_TRUE(destination.transition(Status::postcopy_recover, Cause::connected));
            EXPECT_TRUE(destination.transition(Status::postcopy_active, Cause::connected));
        }
    }};
    std::map<Side, std::uint64_t> seen;
    while (seen[Side::source] < rounds * 3 || seen[Side::destination] < rounds * 3 + 4) {
        if (const auto event = queue.take()) {
            ASSERT_EQ(event->sequence, ++seen[event->side]);
        } else {
            ASSERT_TRUE(is_readable(queue, 60'000)) << "an event was put without a wake-up";
        }
    }
}

} // namespace
