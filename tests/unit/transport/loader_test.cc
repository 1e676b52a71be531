#include "transport/loader.h"

#include <gtest/gtest.h>

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

namespace pageferry::transport {
namespace {

namespace fs = std::filesystem;

const std::vector<fs::path> plugins{PAGEFERRY_TEST_PLUGINS}; // the directory of plugins/, built

Error refused(const std::string& scheme, std::span<const fs::path> places = plugins) {
    auto transport = load(scheme, places);
    EXPECT_FALSE(transport) << scheme;
    return transport ? Error{} : transport.error();
}

bool is_loaded(const fs::path& file) {
    void* handle = ::dlopen(file.c_str(), RTLD_NOW | RTLD_NOLOAD);
    if (handle != nullptr) {
        ::dlclose(handle);
    }
    return handle != nullptr;
}

bool holds(const Error& error, std::string_view words) {
    return error.to_string().find(words) != std::string::npos;
}

// A directory of its own that goes with the test.
class TemporaryFolder {
public:
    TemporaryFolder() {
        std::string name = (fs::temp_directory_path() / "pageferry-loader-XXXXXX").string();
        path_ = ::mkdtemp(name.data());
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    ~TemporaryFolder() {
        std::error_code ignored;
        fs::remove_all(path_, ignored);
    }
    [[nodiscard]] const fs::path& path() const { return path_; }

private:
    fs::path path_;
};

// The environment variable, put back at the end.
class PathVariable {
public:
    explicit PathVariable(const std::string& value) {
        if (const char* old = std::getenv(path_variable)) {
            old_ = old;
        }
        ::setenv(path_variable, value.c_str(), 1);
    }
    PathVariable(const PathVariable&) = delete;
    PathVariable& operator=(const PathVariable&) = delete;
    ~PathVariable() {
        if (old_) {
            ::setenv(path_variable, old_->c_str(), 1);
        } else {
            ::unsetenv(path_variable);
        }
    }

private:
    std::optional<std::string> old_;
};

TEST(Loader, RdmaSaysWhatItNeeds) {
    if (find_plugin("rdma", plugins)) {
        GTEST_SKIP() << "it is there";
    }
    const Error error = refused("rdma");
    EXPECT_TRUE(holds(error, "pageferry-transport-rdma.so")) << error.to_string();
    for (const char* package : {"libibverbs-dev", "librdmacm-dev", "libibverbs1", "librdmacm1", "ibverbs-providers"}) {
        EXPECT_TRUE(holds(error, package)) << error.to_string();
    }
}

TEST(Loader, AMissingLibraryIsGivenItsPackage) {
    const std::string cannot = ": cannot open shared object file: No such file or directory";
    EXPECT_NE(remedy_for("libibverbs.so.1" + cannot).find("libibverbs1 and ibverbs-providers"), std::string::npos);
    EXPECT_NE(remedy_for("librdmacm.so.1" + cannot).find("librdmacm1"), std::string::npos);
    EXPECT_EQ(remedy_for("libother.so.3" + cannot), "install the package that has libother.so.3");
    EXPECT_EQ(remedy_for("/a/pageferry-transport-x.so: undefined symbol: y"), "");
    EXPECT_EQ(remedy_for(""), "");
}

TEST(Loader, LoadsAndUnloadsWithTheLastUser) {
    const fs::path file = plugins[0] / plugin_file("good");
    ASSERT_FALSE(is_loaded(file));
    {
        std::optional<Listener> listener;
        {
            const auto transport = load("good", plugins);
            ASSERT_TRUE(transport) << transport.error().to_string();
            EXPECT_EQ(transport->name(), "good");
            EXPECT_TRUE(transport->probe(std::nullopt));
            auto listening = transport->listen("good:h:1", Options{});
            ASSERT_TRUE(listening);
            listener.emplace(*std::move(listening));
        }
        EXPECT_TRUE(is_loaded(file)) << "the listener still needs it";
        EXPECT_EQ(listener->uri(), "");
        const auto nobody = listener->accept(Milliseconds{0});
        EXPECT_TRUE(nobody && !*nobody);
    }
    EXPECT_FALSE(is_loaded(file));
}

TEST(Loader, InspectIsOptional) {
    const auto good = load("good", plugins);
    ASSERT_TRUE(good);
    const auto text = good->inspect();
    ASSERT_TRUE(text) << text.error().to_string();
    EXPECT_EQ(text->size(), 40'000U) << "it is asked again with room enough";
    EXPECT_EQ(text->front(), '{');
    EXPECT_EQ(text->back(), '}');

    const auto old = load("old", plugins);
    ASSERT_TRUE(old) << old.error().to_string();
    EXPECT_EQ(old->inspect().value_or("error"), "");
}

TEST(Loader, TwiceGivesTheSameAndEitherKeepsItLoaded) {
    auto first = load("good", plugins);
    const auto second = load("good", plugins);
    ASSERT_TRUE(first && second);
    first = std::unexpected{Error{}};
    EXPECT_TRUE(is_loaded(plugins[0] / plugin_file("good")));
    EXPECT_TRUE(second->listen("good:h:1", Options{}));
}

TEST(Loader, NoFileNamesEveryPlaceAndTheVariable) {
    const Error error = refused("nowhere");
    EXPECT_EQ(error.code, ErrorCode::not_found);
    EXPECT_TRUE(holds(error, "pageferry-transport-nowhere.so"));
    EXPECT_TRUE(holds(error, path_variable));
    for (const fs::path& place : search_path(plugins)) {
        EXPECT_TRUE(holds(error, place.string())) << place;
    }
}

TEST(Loader, WhatIsWrongIsSaid) {
    const auto check = [](const char* scheme, ErrorCode code, std::string_view words) {
        const Error error = refused(scheme);
        EXPECT_EQ(error.code, code) << scheme << ": " << error.to_string();
        EXPECT_TRUE(holds(error, words)) << error.to_string();
        EXPECT_TRUE(holds(error, plugin_file(scheme).string())) << error.to_string();
        EXPECT_FALSE(is_loaded(plugins[0] / plugin_file(scheme)));
    };
    check("symbol", ErrorCode::unsupported, "does not export pageferry_transport_entry()");
    check("version", ErrorCode::version, "built for version 42 of the transport interface, this is version 1");
    check("null", ErrorCode::version, "cannot serve version 1");
    check("size", ErrorCode::version, "needs " + std::to_string(PF_TRANSPORT_SIZE_MIN));
    check("function", ErrorCode::unsupported, "\"fence\" is missing");
    check("name", ErrorCode::unsupported, "name, description or list of schemes is missing");
    check("scheme", ErrorCode::unsupported, "does not serve the scheme \"scheme\", only another, third");
    check("unresolved", ErrorCode::unsupported, "pageferry_no_library_has_this");
}

TEST(Loader, AFileThatIsNoSharedObject) {
    const TemporaryFolder folder;
    std::ofstream{folder.path() / plugin_file("text")} << "not a shared object\n";
    const std::vector places{folder.path()};
    EXPECT_TRUE(installed("text", places));
    const Error error = refused("text", places);
    EXPECT_EQ(error.code, ErrorCode::unsupported);
    EXPECT_TRUE(holds(error, "ELF") || holds(error, "file too short")) << error.to_string();
}

TEST(Loader, ASchemeCannotLeadOutOfTheDirectories) {
    const TemporaryFolder folder;
    const std::vector places{folder.path()};
    fs::create_directory(folder.path() / "pageferry-transport-x");
    std::ofstream{folder.path() / "y.so"} << "";
    for (const char* scheme : {"", "../y", "x/../y", "a b", "1", "-", "a:"}) {
        EXPECT_FALSE(installed(scheme, places)) << scheme;
        EXPECT_EQ(refused(scheme, places).code, ErrorCode::not_found) << scheme;
    }
    fs::create_directory(folder.path() / plugin_file("folder"));
    EXPECT_FALSE(installed("folder", places));
}

TEST(Loader, AskingWhetherItIsInstalledLoadsNothing) {
    EXPECT_TRUE(installed("good", plugins));
    EXPECT_TRUE(installed("symbol", plugins));
    EXPECT_FALSE(installed("nowhere", plugins));
    EXPECT_FALSE(is_loaded(plugins[0] / plugin_file("good")));
}

TEST(SearchPath, TheCallersThenTheVariablesThenTheProgramsThenTheInstallations) {
    const PathVariable variable{"/env/one::/env/two:"};
    const std::vector<fs::path> first{"/option"};
    const auto places = search_path(first);
    ASSERT_GE(places.size(), 5U);
    EXPECT_EQ(places[0], "/option");
    EXPECT_EQ(places[1], "/env/one");
    EXPECT_EQ(places[2], "/env/two");
    const fs::path program = fs::read_symlink("/proc/self/exe").parent_path();
    EXPECT_TRUE(std::ranges::count(places, program) == 1);
    EXPECT_EQ(std::ranges::count(places, fs::path{}), 0) << "an empty entry is not the current directory";
}

TEST(SearchPath, EveryPluginIsFoundOnceByItsScheme) {
    std::vector<std::string> schemes;
    for (const FoundPlugin& one : find_plugins(plugins)) {
        schemes.push_back(one.scheme);
        EXPECT_EQ(one.file, find_plugin(one.scheme, plugins));
    }
    EXPECT_TRUE(std::ranges::is_sorted(schemes));
    EXPECT_EQ(std::ranges::count(schemes, "good"), 1);
    EXPECT_EQ(std::ranges::count(schemes, "unresolved"), 1) << "also what will not load: the one who asks wants to know";
}

TEST(SearchPath, TheVariableFindsAPlugin) {
    EXPECT_FALSE(installed("good"));
    const PathVariable variable{plugins[0].string()};
    EXPECT_TRUE(installed("good"));
    EXPECT_TRUE(load("good"));
}

} // namespace
} // namespace pageferry::transport
