#include "statemachine/machine.h"

#include <utility>

namespace pageferry::statemachine {

namespace {

std::string legal_from(Side side, Status from) {
    std::string text;
    for (const Transition& row : transitions()) {
        if (row.side == side && row.from == from) {
            text += text.empty() ? "" : ", ";
            text += std::string{name_of(row.to)} + " (" + std::string{name_of(row.cause)} + ")";
        }
    }
    return text.empty() ? "nothing" : text;
}

Error refusal(Side side, Status from, Status to, Cause cause, std::string reason) {
    std::string object{name_of(side)};
    object += " from " + std::string{name_of(from)} + " to " + std::string{name_of(to)};
    object += " (" + std::string{name_of(cause)} + ")";
    return make_error(ErrorCode::state, "migration state change", std::move(object), std::move(reason));
}

} // namespace

Machine::Machine(Side side, EventQueue& events, Status first) : side_(side), events_(events), status_(first) {}

std::string Machine::error() const {
    const std::lock_guard lock{mutex_};
    return error_;
}

Result<void> Machine::transition(Status to, Cause cause, std::string error) {
    return move(std::nullopt, to, cause, std::move(error));
}

Result<void> Machine::transition_from(Status from, Status to, Cause cause, std::string error) {
    return move(from, to, cause, std::move(error));
}

Result<void> Machine::move(std::optional<Status> expected, Status to, Cause cause, std::string error) {
    const std::lock_guard lock{mutex_};
    const Status from = status_.load(std::memory_order_relaxed);
    if (expected && *expected != from) {
        return std::unexpected(
            refusal(side_, *expected, to, cause,
                    "the status is " + std::string{name_of(from)} + " by now; legal from there: " + legal_from(side_, from)));
    }
    if (!is_legal(side_, from, to, cause)) {
        return std::unexpected(refusal(side_, from, to, cause, "not a legal change; legal: " + legal_from(side_, from)));
    }
    if (to == Status::setup || to == Status::postcopy_recover_setup || to == Status::postcopy_active) {
        error_.clear();
    }
    if (cause == Cause::error || cause == Cause::connection_lost || !error.empty()) {
        error_ = error;
    }
    status_.store(to, std::memory_order_release);
    // Under the mutex, so that the queue's order is the machine's.
    events_.put(Event{.sequence = ++sequence_,
                      .side = side_,
                      .from = from,
                      .to = to,
                      .cause = cause,
                      .time = std::chrono::system_clock::now(),
                      .error = std::move(error)});
    return {};
}

} // namespace pageferry::statemachine
