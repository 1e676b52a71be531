// The listening side: sockets that are bound, callers in the middle of their handshake, and those turned away.
//
// Everything happens within accept(), by poll(2) over all sockets at once: no caller holds up another, and one that says nothing
// is gone after handshake_ms. At most 128 sockets may be in the handshake without having said who they are; then the oldest goes.
//
// Threads: accept() one at a time; cancel() any.
#pragma once

#include "tcp_fallback/connection.h"
#include "tcp_fallback/kit.h"
#include "tcp_fallback/lane_groups.h"
#include "transport/plugin/address.h"

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

struct pollfd;

namespace pageferry::tcp {

class Listener {
public:
    // in_use: the port or path is taken, with the remedy. A unix socket file that nobody listens on any more is replaced.
    static Outcome<std::unique_ptr<Listener>> listen(const std::string& uri, const pf_options& options);
    ~Listener(); // closes, and removes its unix socket file
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

    // With the real port.
    [[nodiscard]] std::string uri() const { return uri_.to_string(); }
    // nullptr: no peer in time; rejected then has the latest stranger turned away since it was last told, if there was one.
    Outcome<std::unique_ptr<Connection>> accept(const Deadline& deadline, std::optional<Fault>& rejected);
    void cancel();

private:
    // A socket that has not said who it is yet.
    struct Caller {
        Fd socket;
        std::string name;
        Clock::time_point until;
        std::array<std::byte, preamble_bytes> said{};
        std::size_t have = 0;
    };

    Listener(transport::Uri uri, const pf_options& options, Fd event);
    Outcome<void> bind_tcp();
    Outcome<void> bind_unix();

    // One look at everything, without waiting. A connection when one has become whole.
    Outcome<std::unique_ptr<Connection>> look(const std::vector<pollfd>& watched);
    [[nodiscard]] std::vector<pollfd> watch() const;
    [[nodiscard]] Deadline next_look(const Deadline& deadline) const;
    Outcome<void> take_callers(int from);
    // nullptr: it needs more, or has been turned away.
    std::unique_ptr<Connection> hear(Caller& caller);
    std::unique_ptr<Connection> welcome(LaneSet lanes);
    void expire();
    void turn_away_oldest();
    // In the words of the handshake where the socket's peer knows it, and for the next accept() to tell.
    void turn_away(Fd socket, const std::string& name, Error why, bool tell_it);

    transport::Uri uri_;
    const pf_options options_;
    const Fd event_; // raised by cancel()
    std::vector<Fd> sockets_;
    std::optional<std::pair<dev_t, ino_t>> file_; // of the unix socket
    std::deque<Caller> callers_;                  // in the order of arrival
    LaneGroups groups_;
    std::optional<Fault> rejected_;
};

} // namespace pageferry::tcp
