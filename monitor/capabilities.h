// The migration capabilities a user can switch: QEMU 11.1's names and order, which of them Pageferry implements, and their
// present state.
//
// Threads: the monitor process's one thread. set() changes everything in its list or nothing.
#pragma once

#include "base/error.h"

#include <nlohmann/json_fwd.hpp>

#include <map>
#include <string>
#include <string_view>

namespace pageferry::monitor {

class Capabilities {
public:
    Capabilities();

    // False for a name that does not exist.
    [[nodiscard]] bool on(std::string_view name) const;

    // `arguments` of migrate-set-capabilities. Errors carry QEMU's text as their reason, and nothing else: a malformed list, an
    // unknown name, or a capability switched on that Pageferry does not implement (named). Switching off is always accepted, also
    // for names that QEMU has dropped since.
    Result<void> set(const nlohmann::json& arguments);

    // The `return` array of query-migrate-capabilities.
    [[nodiscard]] nlohmann::json query() const;

    // The `capabilities` array for QEMU's own migrate-set-capabilities before a migration that QEMU carries: every capability
    // this QEMU lists (its own answer to query-migrate-capabilities), with the state the user gave it here.
    [[nodiscard]] nlohmann::json for_qemu(const nlohmann::json& listed_by_qemu) const;

private:
    std::map<std::string, bool, std::less<>> state_;
};

} // namespace pageferry::monitor
