// QEMU's MigrationStatus, whole, with QEMU's names (qapi/migration.json, QEMU 11.1), and the transitions that are legal.
//
// The table is data: docs/states.md and the model are generated from it. Everything that is not in it is refused.
// A guest that came in and later moves on has two machines, one for each side, as QEMU has: an outgoing and an incoming state.
// Pure; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace pageferry::statemachine {

enum class Status : std::uint8_t {
    none,
    setup,
    cancelling,
    cancelled,
    active,
    postcopy_device,
    postcopy_active,
    postcopy_paused,
    postcopy_recover_setup,
    postcopy_recover,
    completed,
    failing,
    failed,
    colo,
    pre_switchover,
    device,
    wait_unplug,
};
inline constexpr std::size_t status_count = 17;

enum class Side : std::uint8_t { source, destination };

// Why a transition happens.
enum class Cause : std::uint8_t {
    requested,       // a user's command: migrate, migrate-incoming, migrate_cancel, migrate-continue, migrate-pause, ...
    connected,       // the peers agreed
    stopped,         // the guest is stopped for the switchover
    device_saved,    // device state is on its way
    device_loaded,   // the destination confirmed it
    finished,        // nothing is left to do
    error,           // something failed; the error text says what
    connection_lost, // the peer is gone
    cleaned_up,      // what a failed or cancelled attempt had taken is given back
};
inline constexpr std::size_t cause_count = 9;

struct Transition {
    Status from;
    Status to;
    Side side;
    Cause cause;
};

// The whole table, source first.
std::span<const Transition> transitions();

std::span<const std::string_view> status_names(); // all of them, in the order of Status
std::string_view name_of(Status status);          // "postcopy-recover-setup"
std::string_view name_of(Side side);              // "source"
std::string_view name_of(Cause cause);            // "connection lost"
std::optional<Status> status_from_name(std::string_view name);

bool is_legal(Side side, Status from, Status to, Cause cause);

// postcopy-paused or postcopy-recover-setup: the guest's missing pages cannot be had now (QEMU: migration_postcopy_is_alive's
// opposite). A failed attempt goes from the one to the other and back: who waits for the end of it waits first and looks again
// each time it is woken, do { wait } while (is_paused(...)), and never takes one change for the end.
bool is_paused(Status status);
// A migration is under way: a second one is refused (QEMU's migration_is_running()).
bool is_running(Status status);

} // namespace pageferry::statemachine
