// Where the pieces of an installation (or of a build tree) are, and how programs are found.
//
// Threads: any; they read the environment.
#pragma once

#include "base/error.h"

#include <span>
#include <string>
#include <string_view>

namespace pageferry::hypervisor {

// As execvp finds it: with a slash as it is, otherwise in PATH, then in the folders of `also`. not_found or permission.
Result<std::string> find_program(const std::string& name, std::span<const std::string_view> also = {});

// pageferry-monitor: in $PAGEFERRY_LIBEXEC, next to this program, or in ../libexec/pageferry from there.
Result<std::string> find_monitor_program();

// libpageferry-agent.so: in $PAGEFERRY_LIBEXEC, next to this program, or in the installation's lib/pageferry.
Result<std::string> find_agent();

} // namespace pageferry::hypervisor
