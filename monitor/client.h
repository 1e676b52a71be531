// A QMP client: what a script or the command line speaks to QEMU, and to Pageferry in front of it.
//
// Blocking, with a deadline on every call. One command is under way at a time; events that come meanwhile are kept in order.
// Every command carries an id, so a reply that comes after its deadline is dropped and never taken for another command's.
// Threads: one thread at a time for each client.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>

namespace pageferry::monitor {

using Deadline = std::chrono::steady_clock::time_point;

struct QmpEvent {
    std::string name;                  // "MIGRATION"
    nlohmann::json data;               // null where the event has none
    std::chrono::microseconds time{0}; // since 1970, the sender's clock
};

// Where a monitor listens: "unix:PATH" and a plain path are a local socket, "tcp:HOST:PORT" is TCP (IPv6 in brackets).
struct QmpAddress {
    std::string path; // local socket; empty: TCP
    std::string host;
    std::string port;
};
// invalid_argument, with the forms that are known as the remedy.
Result<QmpAddress> parse_qmp_address(std::string_view text);

class QmpClient {
public:
    // Connects, reads the greeting, leaves capability negotiation. Errors: invalid_argument (the address); refused, not_found,
    // permission, unreachable (no monitor there); timed_out (it does not greet: a QMP monitor serves one client at a time);
    // protocol (no QMP).
    static Result<QmpClient> connect(const std::string& address, Deadline deadline);

    // The reply's `return`. An error reply is code `refused` with operation = the command, object = QEMU's class, reason = its
    // desc, word for word. Other codes: closed, timed_out, protocol, io, cancelled (see interrupt_on).
    Result<nlohmann::json> execute(std::string_view command, const nlohmann::json& arguments, Deadline deadline);

    // The oldest event not yet given; empty when none came in time (a deadline in the past asks and does not wait).
    Result<std::optional<QmpEvent>> next_event(Deadline deadline);

    // While `fd` (not owned; -1: none) is readable, every call that would wait answers `cancelled` instead. The connection stays
    // usable.
    void interrupt_on(int fd) { interrupt_ = fd; }

    // For poll(2) together with other descriptors. Ask next_event() first: events may be waiting in the client.
    [[nodiscard]] int descriptor() const { return socket_.get(); }
    // The greeting's `QMP` object: version and capabilities.
    [[nodiscard]] const nlohmann::json& greeting() const { return greeting_; }
    [[nodiscard]] const std::string& address() const { return address_; }

private:
    QmpClient(Fd socket, std::string address) : socket_(std::move(socket)), address_(std::move(address)) {}

    [[nodiscard]] Error error(ErrorCode code, std::string_view operation, std::string reason, std::string remedy = {}) const;
    [[nodiscard]] Result<void> wait(short events, std::string_view operation, Deadline deadline) const;
    Result<void> send(std::string_view text, std::string_view operation, Deadline deadline);
    Result<nlohmann::json> read_message(std::string_view operation, Deadline deadline);
    void keep_event(const nlohmann::json& message);

    Fd socket_;
    std::string address_;
    nlohmann::json greeting_;
    std::string unread_;       // bytes after the last whole line
    std::size_t searched_ = 0; // of unread_, known to hold no line end
    std::deque<QmpEvent> events_;
    std::uint64_t last_id_ = 0;
    int interrupt_ = -1;
};

} // namespace pageferry::monitor
