#include "hypervisor/qemu/emulator.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace pageferry::hypervisor {
namespace {

namespace fs = std::filesystem;

TEST(Emulator, TheNameItIsCalledBySaysWhichQemu) {
    LauncherSettings settings;
    settings.emulators["pageferry-qemu-11.1"] = "/opt/qemu-11.1/bin/qemu-system-x86_64";
    settings.emulators["pageferry-qemu-kvm"] = "/opt/kvm";
    struct Row {
        const char* called;
        const char* program;
    };
    for (const Row& row : {Row{.called = "pageferry-qemu-system-x86_64", .program = "qemu-system-x86_64"},
                           Row{.called = "/usr/bin/pageferry-qemu-system-aarch64", .program = "qemu-system-aarch64"},
                           Row{.called = "./pageferry-kvm", .program = "kvm"},
                           Row{.called = "/usr/bin/pageferry-qemu-11.1", .program = "/opt/qemu-11.1/bin/qemu-system-x86_64"},
                           Row{.called = "pageferry-qemu-kvm", .program = "/opt/kvm"}}) {
        const auto program = emulator_of(row.called, settings);
        ASSERT_TRUE(program) << row.called << ": " << program.error().to_string();
        EXPECT_EQ(*program, row.program);
    }
    settings.emulators["pageferry-qemu"] = "qemu-system-x86_64"; // even its own name
    EXPECT_EQ(emulator_of("/usr/bin/pageferry-qemu", settings).value(), "qemu-system-x86_64");
}

TEST(Emulator, ANameThatSaysNothingIsRefusedWithWhatToDo) {
    for (const char* called : {"pageferry-qemu", "/usr/bin/pageferry-qemu", "pageferry-", "qemu-system-x86_64", "", "/"}) {
        const auto program = emulator_of(called, {});
        ASSERT_FALSE(program) << called;
        EXPECT_NE(program.error().remedy.find("ln -s pageferry-qemu pageferry-qemu-system-x86_64"), std::string::npos);
        EXPECT_NE(program.error().remedy.find("\"emulators\""), std::string::npos);
    }
}

class FoundEmulator : public testing::Test {
protected:
    void SetUp() override {
        std::string pattern = (fs::temp_directory_path() / "pageferry-emulator-XXXXXX").string();
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        folder = pattern;
        const char* given = std::getenv("PATH");
        path = given != nullptr ? given : "";
        ::setenv("PATH", folder.c_str(), 1);
    }
    void TearDown() override {
        ::setenv("PATH", path.c_str(), 1);
        fs::remove_all(folder);
    }
    fs::path folder;
    std::string path;
};

TEST_F(FoundEmulator, PathComesFirstThenTheUsualFolders) {
    EXPECT_EQ(find_emulator("env").value(), "/usr/bin/env");
    fs::create_symlink("/usr/bin/env", folder / "env");
    EXPECT_EQ(find_emulator("env").value(), (folder / "env").string());
    const auto missing = find_emulator("no-such-qemu");
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().code, ErrorCode::not_found);
}

TEST_F(FoundEmulator, ItNeverFindsItself) {
    fs::create_symlink(fs::read_symlink("/proc/self/exe"), folder / "qemu-system-x86_64");
    for (const std::string& name : {std::string{"qemu-system-x86_64"}, (folder / "qemu-system-x86_64").string()}) {
        const auto found = find_emulator(name);
        ASSERT_FALSE(found) << *found;
        EXPECT_NE(found.error().to_string().find("pageferry-qemu itself"), std::string::npos);
    }
}

} // namespace
} // namespace pageferry::hypervisor
