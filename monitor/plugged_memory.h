// Memory that a user plugs into a running guest: `object-add` of a backend that only QEMU could see becomes one on a shared file,
// as the launcher does it for those of the command line (hypervisor/qemu/), so that the guest can move with it.
//
// Pure; any thread.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <optional>
#include <string>

namespace pageferry::monitor {

// The command to give to QEMU in the place of this one; empty where it is to be left as it is: another command or object, huge
// pages of a memfd (their file would have to be on hugetlbfs), or something that QEMU is to refuse itself.
std::optional<std::string> on_shared_file(const nlohmann::json& message);

} // namespace pageferry::monitor
