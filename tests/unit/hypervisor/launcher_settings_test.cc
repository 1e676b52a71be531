#include "hypervisor/qemu/launcher_settings.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace pageferry::hypervisor {
namespace {

namespace fs = std::filesystem;

Result<LauncherSettings> parse(std::string_view text) {
    return LauncherSettings::parse(text, "/etc/pageferry/qemu.json");
}

TEST(LauncherSettings, EveryMemberIsOptional) {
    const auto none = parse("{}");
    ASSERT_TRUE(none) << none.error().to_string();
    EXPECT_TRUE(none->emulators.empty() && none->log.empty() && none->parameters.empty());
    const auto all = parse(R"({"emulators": {"pageferry-qemu-11.1": "/opt/qemu-11.1/bin/qemu-system-x86_64"}, // a comment
                               "log": "none", "parameters": {"x-pageferry-rdma": "required", "max-bandwidth": 0}})");
    ASSERT_TRUE(all) << all.error().to_string();
    EXPECT_EQ(all->emulators.at("pageferry-qemu-11.1"), "/opt/qemu-11.1/bin/qemu-system-x86_64");
    EXPECT_EQ(all->log, "none");
    EXPECT_EQ(all->parameters, R"({"max-bandwidth":0,"x-pageferry-rdma":"required"})");
    EXPECT_EQ(all->file, "/etc/pageferry/qemu.json");
}

TEST(LauncherSettings, WhatIsWrongIsRefusedByFileAndMember) {
    struct Row {
        const char* text;
        const char* reason;
    };
    for (const Row& row :
         {Row{.text = "", .reason = "parse error"}, Row{.text = "{\"log\": }", .reason = "line 1, column 9"},
          Row{.text = "[]", .reason = "not a JSON object"}, Row{.text = R"({"logs": "none"})", .reason = "no setting \"logs\""},
          Row{.text = R"({"log": 1})", .reason = "\"log\" has to be"},
          Row{.text = R"({"log": ""})", .reason = "\"log\" has to be"},
          Row{.text = R"({"parameters": []})", .reason = "\"parameters\" has to be an object"},
          Row{.text = R"({"emulators": []})", .reason = "\"emulators\" has to be an object"},
          Row{.text = R"({"emulators": {"a": 1}})", .reason = "\"emulators.a\" has to be a string"},
          Row{.text = R"({"emulators": {"a": ""}})", .reason = "\"emulators.a\" has to be a string"},
          Row{.text = R"({"emulators": {"/usr/bin/a": "b"}})", .reason = "\"/usr/bin/a\" in \"emulators\""}}) {
        const auto settings = parse(row.text);
        ASSERT_FALSE(settings) << row.text;
        EXPECT_EQ(settings.error().code, ErrorCode::invalid_argument);
        EXPECT_NE(settings.error().reason.find(row.reason), std::string::npos) << settings.error().to_string();
        EXPECT_NE(settings.error().to_string().find("/etc/pageferry/qemu.json"), std::string::npos);
    }
}

class LoadedSettings : public testing::Test {
protected:
    void SetUp() override {
        std::string pattern = (fs::temp_directory_path() / "pageferry-settings-XXXXXX").string();
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder = pattern;
        file = folder / "qemu.json";
        ::setenv("PAGEFERRY_CONFIG", file.c_str(), 1);
    }
    void TearDown() override {
        ::unsetenv("PAGEFERRY_CONFIG");
        fs::remove_all(folder);
    }
    fs::path folder;
    fs::path file;
};

TEST_F(LoadedSettings, NoFileMeansNoSettings) {
    const auto settings = LauncherSettings::load();
    ASSERT_TRUE(settings) << settings.error().to_string();
    EXPECT_EQ(*settings, LauncherSettings{});
}

TEST_F(LoadedSettings, TheNamedFileIsRead) {
    std::ofstream{file} << R"({"log": "stderr"})";
    const auto settings = LauncherSettings::load();
    ASSERT_TRUE(settings) << settings.error().to_string();
    EXPECT_EQ(settings->log, "stderr");
    EXPECT_EQ(settings->file, file.string());
}

TEST_F(LoadedSettings, WhatIsThereButCannotBeReadIsAnError) {
    fs::create_directory(file);
    const auto settings = LauncherSettings::load();
    ASSERT_FALSE(settings);
    EXPECT_NE(settings.error().to_string().find(file.string()), std::string::npos);
}

} // namespace
} // namespace pageferry::hypervisor
