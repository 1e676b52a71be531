#include "hypervisor/monitor_process/state_history.h"

#include <nlohmann/json.hpp>

#include <string>

namespace pageferry::hypervisor {

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::seconds;

void StateHistory::note(const statemachine::Event& event) {
    if (event.to == statemachine::Status::setup) {
        states_.clear();
    }
    if (states_.size() == most) {
        states_.pop_front();
    }
    states_.push_back({.status = event.to, .since = duration_cast<microseconds>(event.time.time_since_epoch())});
}

nlohmann::json StateHistory::shown() const {
    nlohmann::json list = nlohmann::json::array();
    for (const auto& [status, since] : states_) {
        const auto whole = duration_cast<seconds>(since);
        list.push_back({{"status", std::string{statemachine::name_of(status)}},
                        {"timestamp", {{"seconds", whole.count()}, {"microseconds", (since - whole).count()}}}});
    }
    return list;
}

} // namespace pageferry::hypervisor
