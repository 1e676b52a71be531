// The launcher's settings file: for QEMUs that are started with no environment of the user's, as libvirt does it.
//
// JSON, each member optional:
//   {
//     "emulators":  {"pageferry-qemu-11.1": "/opt/qemu-11.1/bin/qemu-system-x86_64"},   which QEMU a called name stands for
//     "log":        "/var/log/libvirt/qemu/pageferry.log",                            "stderr", "none" or a file
//     "parameters": {"x-pageferry-rdma": "required"}                    as of migrate-set-parameters: the guest's first values
//   }
//
// Threads: any; load reads the environment.
#pragma once

#include "base/error.h"

#include <map>
#include <string>
#include <string_view>

namespace pageferry::hypervisor {

struct LauncherSettings {
    std::string file;                             // where they are from; for messages
    std::map<std::string, std::string> emulators; // by the name called: a program's name or path
    std::string log;                              // empty where not given
    std::string parameters;                       // a JSON object; empty where not given
    bool operator==(const LauncherSettings&) const = default;

    // invalid_argument, with the file and the member: no JSON, an unknown member, or one of the wrong type. What `parameters`
    // holds is judged by the monitor process, which knows them.
    static Result<LauncherSettings> parse(std::string_view text, std::string file);

    // Of the file that PAGEFERRY_CONFIG names, otherwise of the installation's pageferry/qemu.json; all empty where there is no
    // such file. Errors: open's and read's, and those of parse().
    static Result<LauncherSettings> load();
};

} // namespace pageferry::hypervisor
