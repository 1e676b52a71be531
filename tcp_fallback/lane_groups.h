// Which sockets belong together: the lanes of callers that are still arriving at a listener.
//
// Owns the sockets and does nothing with them: no input or output here, so it is tested without any.
// Threads: the listener's, one at a time.
#pragma once

#include "base/fd.h"
#include "tcp_fallback/handshake.h"
#include "tcp_fallback/kit.h"
#include "transport/plugin/deadline.h"

#include <chrono>
#include <expected>
#include <optional>
#include <vector>

namespace pageferry::tcp {

// The sockets of one whole connection.
struct LaneSet {
    Preamble agreed; // session, epoch, lanes, version: what all its lanes said
    Fd control;
    std::vector<Fd> bulk;
    Fd urgent;
};

struct GroupRules {
    Id session{}; // all zero: any
    std::uint32_t epoch = 0;
    std::size_t max_groups = 4;                 // of at most 66 sockets each: far below a process's limit
    std::chrono::milliseconds patience{10'000}; // from a group's first lane to its last
};

// Sockets that will come to nothing, and why.
struct Dropped {
    std::vector<Fd> sockets;
    Error error;
};

class LaneGroups {
public:
    explicit LaneGroups(GroupRules rules) : rules_(rules) {}

    // Takes the socket (moves from it) unless it is refused. A whole connection when this was its last lane.
    // refused: wrong session, older epoch, a lane that is already there, or lanes that contradict each other.
    Result<std::optional<LaneSet>> add(const Preamble& preamble, Fd& socket, Clock::time_point now);
    // The group that has waited longest when there are more than max_groups, and those whose patience is over.
    std::vector<Dropped> expire(Clock::time_point now);
    // The group this socket is in: its peer has gone.
    std::optional<Dropped> drop(int socket);

    // Every socket that waits for its fellows.
    [[nodiscard]] std::vector<int> sockets() const;
    // When expire() has something to do next.
    [[nodiscard]] std::optional<Clock::time_point> next_expiry() const;

private:
    struct Group {
        Preamble first;
        std::vector<Fd> lanes; // control, bulk 0..n-1, urgent
        std::size_t here = 0;
        Clock::time_point until;
    };
    using Groups = std::vector<Group>; // in the order of arrival
    Dropped remove(Groups::iterator group, Error error);

    GroupRules rules_;
    Groups groups_;
};

} // namespace pageferry::tcp
