// The listening side of connection setup: requests are judged by their private data before anything is made for them; lanes of
// the same connection are gathered until all are established.
//
// Everything happens within accept(): no caller holds up another, and one whose lanes do not all come is gone after handshake_ms.
//
// Threads: accept() one at a time; cancel() any.
#pragma once

#include "base/fd.h"
#include "rdma/connection.h"
#include "rdma/handles.h"
#include "rdma/kit.h"
#include "rdma/lane_set.h"
#include "rdma/reaper.h"
#include "transport/plugin/deadline.h"
#include "transport/uri.h"

#include <deque>
#include <memory>
#include <optional>
#include <string>

namespace pageferry::rdma {

class Listener {
public:
    // not_found: no device, or none with that address. in_use: the port is taken. resources: memlock too small.
    static Outcome<std::unique_ptr<Listener>> listen(const std::string& uri, const pf_options& options);
    ~Listener() = default;
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

    [[nodiscard]] std::string uri() const { return uri_.to_string(); } // with the real port
    // nullptr: no peer in time; rejected then has the latest stranger turned away since it was last told, if there was one.
    Outcome<std::unique_ptr<Connection>> accept(const Deadline& deadline, std::optional<Fault>& rejected);
    void cancel();

private:
    // The lanes of one connection, until all are there.
    struct Group {
        Request first;
        std::string peer;
        Lanes set;
        Clock::time_point until;
    };
    using Groups = std::deque<Group>;
    static constexpr std::size_t max_groups = 8;

    Listener(transport::Uri uri, const pf_options& options, Fd event, EventChannel channel)
        : uri_(std::move(uri)), options_(options), event_(std::move(event)), channel_(std::move(channel)) {}
    Outcome<void> bind();
    // Each answers the group that has become whole, if one has.
    Outcome<std::unique_ptr<Connection>> look();
    std::unique_ptr<Connection> take(const rdma_cm_event& event);
    void request(const rdma_cm_event& event);
    Result<void> welcome(const Request& request, CmId id, std::string peer);
    [[nodiscard]] Result<void> judge(const Request& request) const;
    Result<Groups::iterator> group_of(const Request& request, const std::string& peer);
    Groups::iterator group_of(const rdma_cm_id* id);
    std::unique_ptr<Connection> finish(const Groups::iterator& group);
    void turn_away(const Groups::iterator& group, Error why);
    void expire();

    transport::Uri uri_;
    const pf_options options_;
    const Fd event_; // raised by cancel()
    EventChannel channel_;
    std::deque<CmId> ids_; // that listen
    Groups groups_;
    std::optional<Fault> rejected_;
};

} // namespace pageferry::rdma
