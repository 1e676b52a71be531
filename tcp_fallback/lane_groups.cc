#include "tcp_fallback/lane_groups.h"

#include <algorithm>

namespace pageferry::tcp {

namespace {

Error refusal(std::string reason, std::string remedy = {}) {
    return make_error(ErrorCode::refused, "handshake", "connection", std::move(reason), std::move(remedy));
}

std::size_t slot_of(const Preamble& preamble) {
    switch (preamble.kind) {
    case LaneKind::control: return 0;
    case LaneKind::bulk: return std::size_t{1} + preamble.index;
    case LaneKind::urgent: break;
    }
    return std::size_t{1} + preamble.lanes;
}

bool same_connection(const Preamble& one, const Preamble& other) {
    return one.version == other.version && one.lanes == other.lanes && one.session == other.session && one.epoch == other.epoch;
}

} // namespace

Result<std::optional<LaneSet>> LaneGroups::add(const Preamble& preamble, Fd& socket, Clock::time_point now) {
    if (rules_.session != Id{} && preamble.session != rules_.session) {
        return std::unexpected{refusal("it belongs to another migration session", "connect to the destination of this session")};
    }
    if (preamble.epoch < rules_.epoch) {
        return std::unexpected{refusal("its epoch " + std::to_string(preamble.epoch) + " is over: epoch " +
                                       std::to_string(rules_.epoch) + " or later is expected")};
    }
    auto group =
        std::ranges::find_if(groups_, [&](const Group& candidate) { return candidate.first.connection == preamble.connection; });
    if (group == groups_.end()) {
        groups_.push_back(Group{.first = preamble, .lanes = {}, .here = 0, .until = now + rules_.patience});
        group = std::prev(groups_.end());
        group->lanes.resize(std::size_t{2} + preamble.lanes);
    } else if (!same_connection(group->first, preamble)) {
        return std::unexpected{refusal("its lanes contradict each other")};
    }
    Fd& slot = group->lanes[slot_of(preamble)];
    if (slot) {
        return std::unexpected{refusal("this lane is already there")};
    }
    slot = std::move(socket);
    if (++group->here < group->lanes.size()) {
        return std::optional<LaneSet>{};
    }
    LaneSet set{.agreed = group->first, .control = {}, .bulk = {}, .urgent = {}};
    set.control = std::move(group->lanes.front());
    set.urgent = std::move(group->lanes.back());
    for (std::size_t i = 1; i + 1 < group->lanes.size(); ++i) {
        set.bulk.push_back(std::move(group->lanes[i]));
    }
    groups_.erase(group);
    return std::optional<LaneSet>{std::move(set)};
}

Dropped LaneGroups::remove(Groups::iterator group, Error error) {
    Dropped dropped{.sockets = {}, .error = std::move(error)};
    for (Fd& lane : group->lanes) {
        if (lane) {
            dropped.sockets.push_back(std::move(lane));
        }
    }
    groups_.erase(group);
    return dropped;
}

std::vector<Dropped> LaneGroups::expire(Clock::time_point now) {
    std::vector<Dropped> dropped;
    while (!groups_.empty()) {
        const Group& oldest = groups_.front();
        const std::string have = std::to_string(oldest.here) + " of its " + std::to_string(oldest.lanes.size()) + " sockets";
        if (oldest.until <= now) {
            dropped.push_back(remove(
                groups_.begin(), refusal("only " + have + " came within " + std::to_string(rules_.patience.count()) + " ms")));
        } else if (groups_.size() > rules_.max_groups) {
            dropped.push_back(remove(groups_.begin(), refusal("too many callers at once; " + have + " had come")));
        } else {
            break;
        }
    }
    return dropped;
}

std::optional<Dropped> LaneGroups::drop(int socket) {
    const auto group = std::ranges::find_if(groups_, [&](const Group& candidate) {
        return std::ranges::any_of(candidate.lanes, [&](const Fd& lane) { return lane && lane.get() == socket; });
    });
    if (group == groups_.end()) {
        return std::nullopt;
    }
    return remove(group, refusal("it went away in the middle of its handshake"));
}

std::vector<int> LaneGroups::sockets() const {
    std::vector<int> numbers;
    for (const Group& group : groups_) {
        for (const Fd& lane : group.lanes) {
            if (lane) {
                numbers.push_back(lane.get());
            }
        }
    }
    return numbers;
}

std::optional<Clock::time_point> LaneGroups::next_expiry() const {
    return groups_.empty() ? std::nullopt : std::optional{groups_.front().until};
}

} // namespace pageferry::tcp
