// The states of the latest migration and when each began, for query-migrate's x-pageferry-history: what somebody who comes late,
// or asks once, would otherwise have had to listen for.
//
// Threads: one at a time.
#pragma once

#include "statemachine/machine.h"

#include <nlohmann/json_fwd.hpp>

#include <chrono>
#include <deque>

namespace pageferry::hypervisor {

class StateHistory {
public:
    // A recovery that is tried for days would fill memory: of more states than these the oldest are forgotten.
    static constexpr std::size_t most = 200;

    // Each event of the state machine, in its order. The first of a migration forgets those of the one before.
    void note(const statemachine::Event& event);
    // [{"status", "timestamp": {"seconds", "microseconds"}}], the oldest first; empty before the first migration.
    [[nodiscard]] nlohmann::json shown() const;

private:
    struct State {
        statemachine::Status status;
        std::chrono::microseconds since; // since 1970
    };
    std::deque<State> states_;
};

} // namespace pageferry::hypervisor
