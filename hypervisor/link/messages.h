// What the monitor process and the mover say to each other.
//
// monitor → mover: start (first, with descriptors), cancel, pause, continue, start-postcopy, listen {id, uris}, guest {stopped |
// loaded}, reply {id, error?, running?} (+ one descriptor)
// mover → monitor: ready {uris?, attempts?} or refused {error}, status {to, cause, error}, request {id, what}, accepted {session,
// epoch}, transport (transport_report.h), listening {id, uris | error}, ended
//
// The monitor process holds nothing of what a mover says for true but what the state table allows: a mover reads a peer's bytes.
// Pure; any thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "memory/ram_block.h"
#include "statemachine/machine.h"
#include "transport/connection.h"

#include <nlohmann/json.hpp>

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::hypervisor {

inline constexpr std::size_t most_candidates = 16; // URIs of one mover: the user's, and for each one it falls back to

struct LinkMessage {
    nlohmann::json body; // an object
    std::vector<Fd> fds;

    [[nodiscard]] std::string text(std::string_view key) const; // empty: not there, or no text
    [[nodiscard]] std::uint64_t number(std::string_view key) const;
    [[nodiscard]] bool flag(std::string_view key) const;
};

// What a mover is told first. Descriptors go along in this order: control page, userfaultfd, pagemap, clear_refs, discards, page
// map (each where the flag says so), then the userfaultfds for faults, then one for each block.
struct MoverStart {
    statemachine::Side side = statemachine::Side::source;
    std::vector<std::string> uris; // 1..most_candidates; tried in order (source), all listened on (destination)
    transport::SessionId session{};
    unsigned lanes = 2;
    std::chrono::milliseconds dead_peer{10'000};
    std::chrono::milliseconds connect_timeout{30'000};
    bool pause_before_switchover = false;
    // A source: the capability is on. A destination: it has what it needs for it (page map and faults).
    bool postcopy = false;
    // The migration was begun by an earlier mover and is not settled: a source comes again, a destination waits for it. No RAM is
    // pushed, so there is no tracking.
    bool again = false;
    statemachine::Status status = statemachine::Status::none; // where it is then
    // Of the connection to be made, by the first URI, and by each further one the next number; or of the last one there was
    // (destination).
    std::uint32_t epoch = 0;
    bool guest_runs = true; // source: what the permit says; destination: it has run the guest already
    std::vector<std::string> transport_path;
    std::vector<memory::RamBlockInfo> blocks;
    bool has_userfaultfd = false;
    bool has_pagemap = false;
    bool has_clear_refs = false;
    bool has_discards = false; // the agent's counters
    bool has_page_map = false;
    std::uint32_t faults = 0;                // userfaultfds
    std::vector<std::uint32_t> vcpu_threads; // the kernel's ids
    std::string no_pinning;                  // source: why its memory must not be pinned; empty: it may
};

nlohmann::json to_json(const MoverStart& start);
Result<MoverStart> mover_start_from(const nlohmann::json& body);

std::string session_text(const transport::SessionId& session);
bool read_session(std::string_view text, transport::SessionId& session); // false: it is no session id

inline constexpr std::uint32_t most_faults = 64; // userfaultfds of one mover
inline constexpr std::size_t most_vcpus = 4096;  // named to a mover

// What a mover listens on: texts of sane length, not more than it was given; else empty.
std::vector<std::string> read_uris(const nlohmann::json& body, const char* key, std::size_t most);

nlohmann::json to_json(const Error& error);
Error error_from(const nlohmann::json& object);

// What the mover may ask for; the names go over the link.
namespace request {
inline constexpr std::string_view start_device_save = "start-device-save";
inline constexpr std::string_view finish_device_save = "finish-device-save";
inline constexpr std::string_view commit = "commit";
inline constexpr std::string_view start_device_load = "start-device-load";
inline constexpr std::string_view drop_mappings = "drop-mappings";
inline constexpr std::string_view run = "run";
} // namespace request

} // namespace pageferry::hypervisor
