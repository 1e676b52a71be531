// The migration parameters a user can set: QEMU 11.1's names, defaults, ranges and error texts, and Pageferry's own
// (x-pageferry-*).
//
// Threads: the monitor process's one thread. set() changes everything in its arguments or nothing.
#pragma once

#include "base/error.h"
#include "monitor/transport_choice.h"

#include <nlohmann/json_fwd.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace pageferry::monitor {

struct Announce {
    std::chrono::milliseconds initial{50};
    std::chrono::milliseconds max{550};
    std::uint64_t rounds = 5;
    std::chrono::milliseconds step{100};
};

class Parameters {
public:
    Parameters();
    Parameters(const Parameters& other);
    Parameters& operator=(const Parameters& other);
    ~Parameters();

    // `arguments` of migrate-set-parameters. Errors carry QEMU's text as their reason, and nothing else: wrong type, out of
    // range, unknown, or a parameter that Pageferry does not implement set to anything but the value it has (named).
    Result<void> set(const nlohmann::json& arguments);

    // The `return` object of query-migrate-parameters.
    [[nodiscard]] nlohmann::json query() const;

    [[nodiscard]] std::uint64_t max_bandwidth() const;              // bytes/s, 0: unlimited
    [[nodiscard]] std::uint64_t avail_switchover_bandwidth() const; // bytes/s, 0: measured
    [[nodiscard]] std::uint64_t max_postcopy_bandwidth() const;     // bytes/s, 0: unlimited
    [[nodiscard]] std::chrono::milliseconds downtime_limit() const;
    [[nodiscard]] unsigned multifd_channels() const; // lanes, 1..255
    [[nodiscard]] Announce announce() const;
    [[nodiscard]] std::chrono::milliseconds dead_peer_timeout() const; // x-pageferry-dead-peer-timeout
    [[nodiscard]] std::chrono::milliseconds connect_timeout() const;   // x-pageferry-connect-timeout
    // Automatic recovery, of a source: x-pageferry-recover-*.
    [[nodiscard]] unsigned recover_attempts() const;                    // 0: off
    [[nodiscard]] std::chrono::milliseconds recover_backoff() const;    // before the first attempt, doubled after each
    [[nodiscard]] std::chrono::milliseconds recover_time_limit() const; // from the pause, 0: none

    [[nodiscard]] RdmaPolicy rdma() const;       // x-pageferry-rdma
    [[nodiscard]] CarrierPolicy carrier() const; // x-pageferry-carrier

    // Arguments for QEMU's own migrate-set-parameters before a migration that QEMU carries: those of ours that the user can set
    // and this QEMU has (its own answer to query-migrate-parameters), with their present values.
    [[nodiscard]] nlohmann::json for_qemu(const nlohmann::json& listed_by_qemu) const;

private:
    [[nodiscard]] std::uint64_t number(std::string_view name) const;
    [[nodiscard]] std::size_t choice(std::string_view name, std::span<const std::string_view> values) const; // which of them

    std::unique_ptr<nlohmann::json> values_; // by name, as query() shows them
};

} // namespace pageferry::monitor
