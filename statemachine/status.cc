#include "statemachine/status.h"

#include <algorithm>
#include <array>
#include <iterator>

namespace pageferry::statemachine {

namespace {

constexpr Side src = Side::source;
constexpr Side dst = Side::destination;

// One line, one transition. QEMU's functions are named where the reason is QEMU's alone.
// NOLINTBEGIN(modernize-use-designated-initializers): a table is read by its columns.
constexpr Transition table[] = {
    // Source: start. The last migration must have ended; a failed or cancelled one leaves nothing behind.
    {Status::none, Status::setup, src, Cause::requested},
    {Status::cancelled, Status::setup, src, Cause::requested},
    {Status::failed, Status::setup, src, Cause::requested},
    {Status::completed, Status::setup, src, Cause::requested},
    {Status::setup, Status::active, src, Cause::connected},
    // A failover network card is unplugged before the first round (QEMU: qemu_savevm_wait_unplug).
    {Status::setup, Status::wait_unplug, src, Cause::connected},
    {Status::wait_unplug, Status::active, src, Cause::finished},

    // Source: switchover, with or without a halt for the user's migrate-continue.
    {Status::active, Status::pre_switchover, src, Cause::stopped},
    {Status::pre_switchover, Status::device, src, Cause::requested},
    {Status::active, Status::device, src, Cause::stopped},
    {Status::device, Status::completed, src, Cause::finished},
    {Status::device, Status::postcopy_device, src, Cause::device_saved},
    {Status::postcopy_device, Status::postcopy_active, src, Cause::device_loaded},
    {Status::postcopy_active, Status::completed, src, Cause::finished},

    // Source: failure while the guest may still go on here. QEMU 11 cleans up in failing and only then says failed.
    {Status::setup, Status::failing, src, Cause::error},
    {Status::setup, Status::failing, src, Cause::connection_lost},
    {Status::wait_unplug, Status::failing, src, Cause::error},
    {Status::wait_unplug, Status::failing, src, Cause::connection_lost},
    {Status::active, Status::failing, src, Cause::error},
    {Status::active, Status::failing, src, Cause::connection_lost},
    {Status::pre_switchover, Status::failing, src, Cause::error},
    {Status::pre_switchover, Status::failing, src, Cause::connection_lost},
    {Status::device, Status::failing, src, Cause::error},
    {Status::device, Status::failing, src, Cause::connection_lost},
    {Status::postcopy_device, Status::failing, src, Cause::error},
    {Status::postcopy_device, Status::failing, src, Cause::connection_lost},
    {Status::failing, Status::failed, src, Cause::cleaned_up},

    // Source: cancel. Not in postcopy: there the destination may run.
    {Status::setup, Status::cancelling, src, Cause::requested},
    {Status::wait_unplug, Status::cancelling, src, Cause::requested},
    {Status::active, Status::cancelling, src, Cause::requested},
    {Status::pre_switchover, Status::cancelling, src, Cause::requested},
    {Status::device, Status::cancelling, src, Cause::requested},
    {Status::cancelling, Status::cancelled, src, Cause::cleaned_up},

    // Source: the permit to run is out, and the connection broke before the destination's word. Which of the two runs is for a
    // recovery to settle; this side must not resume by itself.
    {Status::device, Status::postcopy_paused, src, Cause::connection_lost},
    {Status::postcopy_device, Status::postcopy_paused, src, Cause::connection_lost},

    // Source: postcopy is interrupted and recovered. Nothing ever fails from here: the guest is on the other side.
    {Status::postcopy_active, Status::postcopy_paused, src, Cause::requested},
    {Status::postcopy_active, Status::postcopy_paused, src, Cause::error},
    {Status::postcopy_active, Status::postcopy_paused, src, Cause::connection_lost},
    {Status::postcopy_paused, Status::postcopy_recover_setup, src, Cause::requested},
    {Status::postcopy_recover_setup, Status::postcopy_paused, src, Cause::requested}, // the attempt is called off
    {Status::postcopy_recover_setup, Status::postcopy_paused, src, Cause::error},
    {Status::postcopy_recover_setup, Status::postcopy_paused, src, Cause::connection_lost},
    {Status::postcopy_recover_setup, Status::postcopy_recover, src, Cause::connected},
    {Status::postcopy_recover, Status::postcopy_paused, src, Cause::requested},
    {Status::postcopy_recover, Status::postcopy_paused, src, Cause::error},
    {Status::postcopy_recover, Status::postcopy_paused, src, Cause::connection_lost},
    {Status::postcopy_recover, Status::postcopy_active, src, Cause::connected},

    // Destination: QEMU takes one incoming migration in its life, and fails without a failing in between.
    {Status::none, Status::setup, dst, Cause::requested},
    {Status::setup, Status::active, dst, Cause::connected},
    {Status::active, Status::completed, dst, Cause::finished},
    {Status::active, Status::postcopy_device, dst, Cause::device_saved},
    {Status::postcopy_device, Status::postcopy_active, dst, Cause::device_loaded},
    {Status::postcopy_active, Status::completed, dst, Cause::finished},

    // Destination: failure while it has not said that it could run.
    {Status::setup, Status::failed, dst, Cause::error},
    {Status::active, Status::failed, dst, Cause::error},
    {Status::active, Status::failed, dst, Cause::connection_lost},
    {Status::postcopy_device, Status::failed, dst, Cause::error},
    {Status::postcopy_device, Status::failed, dst, Cause::connection_lost},

    // Destination: it has said so, and the connection broke before the permit: the source may have given it.
    {Status::active, Status::postcopy_paused, dst, Cause::connection_lost},
    {Status::postcopy_device, Status::postcopy_paused, dst, Cause::connection_lost},

    // Destination: postcopy is interrupted and recovered. While the source sets up a recovery, this side stays paused.
    {Status::postcopy_active, Status::postcopy_paused, dst, Cause::requested},
    {Status::postcopy_active, Status::postcopy_paused, dst, Cause::error},
    {Status::postcopy_active, Status::postcopy_paused, dst, Cause::connection_lost},
    {Status::postcopy_paused, Status::postcopy_recover, dst, Cause::connected},
    {Status::postcopy_recover, Status::postcopy_paused, dst, Cause::requested},
    {Status::postcopy_recover, Status::postcopy_paused, dst, Cause::error},
    {Status::postcopy_recover, Status::postcopy_paused, dst, Cause::connection_lost},
    {Status::postcopy_recover, Status::postcopy_active, dst, Cause::connected},
};
// NOLINTEND(modernize-use-designated-initializers)

constexpr bool contains(Side side, Status from, Status to, Cause cause) {
    return std::ranges::any_of(
        table, [&](const Transition& row) { return row.side == side && row.from == from && row.to == to && row.cause == cause; });
}

constexpr bool has_no_duplicate() {
    for (std::size_t i = 0; i < std::size(table); ++i) {
        for (std::size_t j = i + 1; j < std::size(table); ++j) {
            if (table[i].from == table[j].from && table[i].to == table[j].to && table[i].side == table[j].side &&
                table[i].cause == table[j].cause) {
                return false;
            }
        }
    }
    return true;
}

// One guest runs: a source that may not resume by itself never comes back to a state from which it would.
constexpr bool postcopy_never_goes_back() {
    return std::ranges::none_of(table, [](const Transition& row) {
        const bool past_the_permit = row.from == Status::postcopy_active || row.from == Status::postcopy_paused ||
                                     row.from == Status::postcopy_recover_setup || row.from == Status::postcopy_recover;
        const bool gives_up = row.to == Status::failing || row.to == Status::failed || row.to == Status::cancelling ||
                              row.to == Status::cancelled || row.to == Status::setup;
        return past_the_permit && gives_up;
    });
}

static_assert(has_no_duplicate());
static_assert(postcopy_never_goes_back());

constexpr std::array<std::string_view, status_count> names_of_statuses{
    "none",
    "setup",
    "cancelling",
    "cancelled",
    "active",
    "postcopy-device",
    "postcopy-active",
    "postcopy-paused",
    "postcopy-recover-setup",
    "postcopy-recover",
    "completed",
    "failing",
    "failed",
    "colo",
    "pre-switchover",
    "device",
    "wait-unplug",
};
static_assert(static_cast<std::size_t>(Status::wait_unplug) + 1 == status_count);

constexpr std::array<std::string_view, cause_count> cause_names{
    "requested", "connected", "stopped", "device saved", "device loaded", "finished", "error", "connection lost", "cleaned up",
};
static_assert(static_cast<std::size_t>(Cause::cleaned_up) + 1 == cause_count);

} // namespace

std::span<const Transition> transitions() {
    return table;
}

std::span<const std::string_view> status_names() {
    return names_of_statuses;
}

std::string_view name_of(Status status) {
    const auto index = static_cast<std::size_t>(status);
    return index < names_of_statuses.size() ? names_of_statuses[index] : "unknown";
}

std::string_view name_of(Side side) {
    return side == Side::source ? "source" : "destination";
}

std::string_view name_of(Cause cause) {
    const auto index = static_cast<std::size_t>(cause);
    return index < cause_names.size() ? cause_names[index] : "unknown";
}

std::optional<Status> status_from_name(std::string_view name) {
    const auto* const found = std::ranges::find(names_of_statuses, name);
    if (found == names_of_statuses.end()) {
        return std::nullopt;
    }
    return static_cast<Status>(found - names_of_statuses.begin());
}

bool is_legal(Side side, Status from, Status to, Cause cause) {
    return contains(side, from, to, cause);
}

bool is_paused(Status status) {
    return status == Status::postcopy_paused || status == Status::postcopy_recover_setup;
}

bool is_running(Status status) {
    switch (status) {
    case Status::none:
    case Status::cancelled:
    case Status::completed:
    case Status::failed: return false;
    case Status::setup:
    case Status::cancelling:
    case Status::active:
    case Status::postcopy_device:
    case Status::postcopy_active:
    case Status::postcopy_paused:
    case Status::postcopy_recover_setup:
    case Status::postcopy_recover:
    case Status::failing:
    case Status::colo:
    case Status::pre_switchover:
    case Status::device:
    case Status::wait_unplug: return true;
    }
    return false;
}

} // namespace pageferry::statemachine
