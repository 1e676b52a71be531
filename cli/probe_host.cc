#include "cli/probe_host.h"

#include "cli/probe_sections.h"
#include "transport/loader.h"

#include <algorithm>
#include <iterator>

namespace pageferry::cli {

namespace {

TransportFound look_at(const std::string& scheme, const std::string& file) {
    TransportFound found{.scheme = scheme, .file = file, .description = {}, .usable = {}, .inspected = std::string{}};
    const auto loaded = transport::load(scheme);
    if (!loaded) {
        found.usable = std::unexpected(loaded.error());
        return found;
    }
    found.description = loaded->description();
    found.usable = loaded->probe(std::nullopt);
    found.inspected = loaded->inspect();
    return found;
}

} // namespace

std::vector<Section> probe_host() {
    std::vector<Section> sections;
    sections.push_back(kernel_section(hypervisor::kernel_features(), hypervisor::userfaultfd_rights()));
    sections.push_back(memory_section(read_memlock(), hypervisor::huge_pages()));
    sections.push_back(qemu_section(hypervisor::find_qemus()));

    auto plugins = transport::find_plugins();
    for (const char* ours : {"rdma", "tcp", "unix"}) { // what is missing of these is said, too
        if (std::ranges::find(plugins, ours, &transport::FoundPlugin::scheme) == plugins.end()) {
            plugins.push_back({.scheme = ours, .file = {}});
        }
    }
    std::ranges::sort(plugins, {}, &transport::FoundPlugin::scheme);
    std::vector<TransportFound> transports;
    transports.reserve(plugins.size());
    for (const auto& plugin : plugins) {
        transports.push_back(look_at(plugin.scheme, plugin.file));
    }
    std::ranges::move(transport_sections(transports), std::back_inserter(sections));
    return sections;
}

} // namespace pageferry::cli
