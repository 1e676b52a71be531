#include "monitor/capabilities.h"

#include "monitor/arguments.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace pageferry::monitor {

namespace {

using nlohmann::json;

struct Known {
    std::string_view name;
    bool implemented;
};

// QEMU 11.1's MigrationCapability, in its order.
// NOLINTBEGIN(modernize-use-designated-initializers): a table
constexpr std::array known{
    Known{"xbzrle", false},
    Known{"rdma-pin-all", true}, // what the RDMA transport does anyway: guest RAM is registered, and so pinned, as a whole
    Known{"auto-converge", false},
    Known{"events", true},
    Known{"postcopy-ram", true},
    Known{"x-colo", false},
    Known{"release-ram", false},
    Known{"return-path", true}, // both sides always talk, in the session protocol
    Known{"pause-before-switchover", true},
    Known{"multifd", true}, // lanes are what it asks for; how many: multifd-channels
    Known{"dirty-bitmaps", false},
    Known{"postcopy-blocktime", true}, // kept always, shown with it
    Known{"late-block-activate", true},
    Known{"x-ignore-shared", false}, // Pageferry's own means of keeping guest RAM out of QEMU's stream
    Known{"validate-uuid", false},
    Known{"background-snapshot", false},
    Known{"zero-copy-send", false},
    Known{"postcopy-preempt", true}, // pages that are waited for always have a lane of their own
    Known{"switchover-ack", true},   // the source never switches over before the destination has said it is ready
    Known{"dirty-limit", false},
    Known{"mapped-ram", false},
};
// NOLINTEND(modernize-use-designated-initializers)

// Names that older QEMUs list and clients of those still switch off.
constexpr std::array<std::string_view, 3> dropped{"zero-blocks", "compress", "block"};

const Known* find(std::string_view name) {
    const auto* const found = std::ranges::find(known, name, &Known::name);
    return found == known.end() ? nullptr : found;
}

Result<std::pair<std::string, bool>> read_entry(const json& entry, const std::string& at) {
    Arguments members{entry, at};
    const std::string name = members.required_string("capability");
    const bool is_dropped = std::ranges::find(dropped, name) != dropped.end();
    if (members.good() && find(name) == nullptr && !is_dropped) {
        members.fail("Parameter 'capability' does not accept value '" + name + "'");
    }
    const bool on = members.required_boolean("state");
    if (auto done = members.finish(); !done) {
        return std::unexpected{std::move(done).error()};
    }
    return std::pair{name, on};
}

} // namespace

Capabilities::Capabilities() {
    for (const Known& one : known) {
        state_.emplace(one.name, false);
    }
}

bool Capabilities::on(std::string_view name) const {
    const auto found = state_.find(name);
    return found != state_.end() && found->second;
}

Result<void> Capabilities::set(const nlohmann::json& arguments) {
    Arguments list{arguments};
    const json* const entries = list.required_array("capabilities");
    std::map<std::string, bool, std::less<>> next = state_;
    if (entries != nullptr) {
        for (std::size_t i = 0; i < entries->size(); ++i) {
            auto entry = read_entry((*entries)[i], "capabilities[" + std::to_string(i) + "]");
            if (!entry) {
                return std::unexpected{std::move(entry).error()};
            }
            next[entry->first] = entry->second;
        }
    }
    if (auto done = list.finish(); !done) {
        return done;
    }
    for (const auto& [name, on] : next) {
        const Known* const one = find(name);
        if (on && (one == nullptr || !one->implemented)) {
            return refuse_with("Pageferry does not implement the capability '" + name + "'");
        }
    }
    // Of QEMU's other combinations with postcopy-ram, one side is always a capability that Pageferry does not implement. With
    // multifd it goes together, as in QEMU since 10.1.
    if (next["postcopy-preempt"] && !next["postcopy-ram"]) {
        return refuse_with("Postcopy preempt requires postcopy-ram");
    }
    if (next["switchover-ack"] && !next["return-path"]) {
        return refuse_with("Capability 'switchover-ack' requires capability 'return-path'");
    }
    for (auto& [name, on] : state_) {
        on = next[name];
    }
    return {};
}

nlohmann::json Capabilities::query() const {
    json list = json::array();
    for (const Known& one : known) {
        list.push_back({{"capability", one.name}, {"state", on(one.name)}});
    }
    return list;
}

nlohmann::json Capabilities::for_qemu(const nlohmann::json& listed_by_qemu) const {
    json list = json::array();
    if (!listed_by_qemu.is_array()) {
        return list;
    }
    for (const json& entry : listed_by_qemu) {
        if (entry.is_object() && entry.contains("capability") && entry["capability"].is_string()) {
            const auto& name = entry["capability"].get_ref<const std::string&>();
            list.push_back({{"capability", name}, {"state", on(name)}});
        }
    }
    return list;
}

} // namespace pageferry::monitor
