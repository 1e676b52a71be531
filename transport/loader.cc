#include "transport/loader.h"

#include <dlfcn.h>

#include <cstddef>
#include <string_view>
#include <utility>

namespace pageferry::transport {

namespace {

namespace fs = std::filesystem;

struct Unload {
    void operator()(void* handle) const { ::dlclose(handle); }
};
using Library = std::unique_ptr<void, Unload>;

std::unexpected<Error> refuse(ErrorCode code, const fs::path& file, std::string reason, std::string remedy = {}) {
    return std::unexpected{make_error(code, "load transport", file.string(), std::move(reason), std::move(remedy))};
}

constexpr const char* rebuild = "install the plugin that belongs to this release of Pageferry, or rebuild it with its header";

// The name of the first function a plugin has left out, or null. Every one but inspect is needed: a transport that cannot do a
// thing has a function that says so.
const char* missing_function(const pf_transport& plugin) {
    const std::pair<bool, const char*> functions[] = {
        {plugin.probe != nullptr, "probe"},
        {plugin.listen != nullptr, "listen"},
        {plugin.listener_uri != nullptr, "listener_uri"},
        {plugin.accept != nullptr, "accept"},
        {plugin.cancel_listener != nullptr, "cancel_listener"},
        {plugin.close_listener != nullptr, "close_listener"},
        {plugin.open != nullptr, "open"},
        {plugin.connect != nullptr, "connect"},
        {plugin.cancel != nullptr, "cancel"},
        {plugin.close != nullptr, "close"},
        {plugin.describe != nullptr, "describe"},
        {plugin.add_memory != nullptr, "add_memory"},
        {plugin.prepare != nullptr, "prepare"},
        {plugin.memory_replaced != nullptr, "memory_replaced"},
        {plugin.revoke_memory != nullptr, "revoke_memory"},
        {plugin.send != nullptr, "send"},
        {plugin.receive != nullptr, "receive"},
        {plugin.push != nullptr, "push"},
        {plugin.pull != nullptr, "pull"},
        {plugin.poll != nullptr, "poll"},
        {plugin.fence != nullptr, "fence"},
        {plugin.counters != nullptr, "counters"},
    };
    for (const auto& [there, name] : functions) {
        if (!there) {
            return name;
        }
    }
    return nullptr;
}

// Size and version come first: nothing else may be read before they are known to be right.
Result<void> check(const pf_transport& plugin, const std::string& scheme, const fs::path& file) {
    // A later header may have more members than version 1 opened with; a plugin with fewer than those was not built for it.
    constexpr std::size_t least = PF_TRANSPORT_SIZE_MIN;
    if (plugin.size < least) {
        return refuse(ErrorCode::version, file,
                      "its table of functions has " + std::to_string(plugin.size) + " bytes, version " +
                          std::to_string(PF_TRANSPORT_ABI_VERSION) + " needs " + std::to_string(least),
                      rebuild);
    }
    if (plugin.abi_version != PF_TRANSPORT_ABI_VERSION) {
        return refuse(ErrorCode::version, file,
                      "it was built for version " + std::to_string(plugin.abi_version) +
                          " of the transport interface, this is version " + std::to_string(PF_TRANSPORT_ABI_VERSION),
                      rebuild);
    }
    if (plugin.name == nullptr || plugin.description == nullptr || plugin.schemes == nullptr) {
        return refuse(ErrorCode::unsupported, file, "its name, description or list of schemes is missing", rebuild);
    }
    if (const char* name = missing_function(plugin)) {
        return refuse(ErrorCode::unsupported, file, "its function \"" + std::string{name} + "\" is missing", rebuild);
    }
    std::string served;
    for (const char* const* one = plugin.schemes; *one != nullptr; ++one) {
        if (scheme == *one) {
            return {};
        }
        served += (served.empty() ? "" : ", ") + std::string{*one};
    }
    return refuse(ErrorCode::unsupported, file,
                  "it does not serve the scheme \"" + scheme + "\"" + (served.empty() ? "" : ", only " + served));
}

Error not_installed(const std::string& scheme, std::span<const fs::path> first) {
    std::string places;
    for (const fs::path& place : search_path(first)) {
        places += (places.empty() ? "" : ", ") + place.string();
    }
    // One of our own, so it can be said what it needs.
    const std::string install =
        scheme == "rdma" ? "install the transport (it is built where libibverbs-dev and librdmacm-dev are there, and runs "
                           "with libibverbs1, librdmacm1 and ibverbs-providers)"
                         : "install the transport";
    return make_error(ErrorCode::not_found, "load transport", "\"" + scheme + "\"",
                      "there is no " + plugin_file(scheme).string() + " in " + places,
                      install + ", or name its directory in " + std::string{path_variable});
}

} // namespace

std::string remedy_for(std::string_view dlopen_words) {
    // glibc: "LIBRARY: cannot open shared object file: No such file or directory"
    if (dlopen_words.find("cannot open shared object file") == std::string_view::npos) {
        return {};
    }
    const std::string library{dlopen_words.substr(0, dlopen_words.find(':'))};
    if (library.starts_with("libibverbs.so")) {
        return "install the packages libibverbs1 and ibverbs-providers (Debian, Ubuntu), or libibverbs (Fedora, RHEL)";
    }
    if (library.starts_with("librdmacm.so")) {
        return "install the package librdmacm1 (Debian, Ubuntu), or librdmacm (Fedora, RHEL)";
    }
    return "install the package that has " + library;
}

Result<Transport> load(const std::string& scheme, std::span<const std::filesystem::path> first) {
    const auto file = find_plugin(scheme, first);
    if (!file) {
        return std::unexpected{not_installed(scheme, first)};
    }
    ::dlerror();
    // RTLD_NOW: what is missing is missing here, not in the middle of a migration. The absolute path keeps dlopen from searching.
    Library library{::dlopen(fs::absolute(*file).c_str(), RTLD_NOW | RTLD_LOCAL)};
    if (!library) {
        const char* words = ::dlerror();
        const std::string reason = words != nullptr ? words : "dlopen gave no reason";
        return refuse(ErrorCode::unsupported, *file, reason, remedy_for(reason));
    }
    // POSIX says that a data pointer from dlsym may be turned into a function pointer.
    const auto entry = reinterpret_cast<pf_transport_entry_fn>(::dlsym(library.get(), PF_TRANSPORT_ENTRY));
    if (entry == nullptr) {
        return refuse(ErrorCode::unsupported, *file, "it is no transport: it does not export " PF_TRANSPORT_ENTRY "()");
    }
    const pf_transport* plugin = entry(PF_TRANSPORT_ABI_VERSION);
    if (plugin == nullptr) {
        return refuse(ErrorCode::version, *file,
                      "it cannot serve version " + std::to_string(PF_TRANSPORT_ABI_VERSION) + " of the transport interface",
                      rebuild);
    }
    if (auto good = check(*plugin, scheme, *file); !good) {
        return std::unexpected{std::move(good.error())};
    }
    // The pointer is the plugin's own static table; what is owned is the library it lives in.
    const std::shared_ptr<void> kept{std::move(library)};
    return Transport{std::shared_ptr<const pf_transport>{kept, plugin}};
}

} // namespace pageferry::transport
