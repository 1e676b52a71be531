// pageferry-conformance --uri=URI [--transport-path=DIR]... [--skip-unusable] [GoogleTest options]
//
// Holds a transport to transport/abi/pageferry_transport.h, both ends of each connection in this one process. URI is listened on:
// let the port be 0 where that means "any". "{pid}" in it is replaced by the process id. Exit code 0: conforms; 1: does not; 2:
// could not be tried.
#include "settings.h"

#include "transport/loader.h"
#include "transport/uri.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <cstdio>
#include <optional>
#include <string_view>

namespace pageferry::conformance {

namespace {

std::optional<transport::Transport>& loaded() {
    static std::optional<transport::Transport> plugin;
    return plugin;
}

bool parse(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
        const std::string_view argument{argv[i]};
        if (argument.starts_with("--uri=")) {
            settings().uri = argument.substr(6);
        } else if (argument.starts_with("--transport-path=")) {
            settings().places.emplace_back(argument.substr(17));
        } else if (argument == "--skip-unusable") {
            settings().skip_unusable = true;
        } else {
            std::fprintf(stderr, "unknown argument %s\n", argv[i]);
            return false;
        }
    }
    if (const auto at = settings().uri.find("{pid}"); at != std::string::npos) {
        settings().uri.replace(at, 5, std::to_string(::getpid()));
    }
    return true;
}

// True when the tests can run; else *code is what to exit with.
bool prepare(int* code) {
    if (settings().uri.empty()) {
        std::fprintf(stderr, "say which transport: --uri=tcp:127.0.0.1:0, and --transport-path=DIR where its plugin lies\n");
        return false;
    }
    auto plugin = transport::load(std::string{transport::scheme_of(settings().uri)}, settings().places);
    if (!plugin) {
        std::fprintf(stderr, "%s\n", plugin.error().to_string().c_str());
        return false;
    }
    if (const auto usable = plugin->probe(settings().uri); !usable) {
        std::fprintf(stderr, "%s\n", usable.error().to_string().c_str());
        if (settings().skip_unusable) {
            std::printf("skipped: this host cannot use it\n");
            *code = 0;
        }
        return false;
    }
    std::printf("%s (%s) on %s\n", plugin->name().c_str(), plugin->description().c_str(), settings().uri.c_str());
    loaded().emplace(*std::move(plugin));
    return true;
}

} // namespace

Settings& settings() {
    static Settings the_settings;
    return the_settings;
}

const pf_transport& transport() {
    return loaded()->abi();
}

} // namespace pageferry::conformance

int main(int argc, char** argv) {
    using namespace pageferry::conformance;
    testing::InitGoogleTest(&argc, argv);
    int code = 2;
    if (!parse(argc, argv)) {
        return code;
    }
    if (!testing::GTEST_FLAG(list_tests) && !prepare(&code)) {
        return code;
    }
    return RUN_ALL_TESTS();
}
