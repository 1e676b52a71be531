#include "hypervisor/qemu/qemu_options.h"

#include <gtest/gtest.h>

namespace pageferry::hypervisor {
namespace {

TEST(QemuOptions, WordsAreOptionsValuesAndImages) {
    const std::vector<std::string> words{"-m", "4G", "-nographic", "disk.img", "--preconfig", "-name", "-qmp", "-future", "x"};
    const auto options = split_options(words);
    ASSERT_EQ(options.size(), 6U);
    EXPECT_TRUE(options[0].is("m") && options[0].has_value && options[0].value == "4G");
    EXPECT_TRUE(options[1].is("nographic") && !options[1].has_value);
    EXPECT_TRUE(options[2].name.empty() && options[2].given == "disk.img");
    EXPECT_TRUE(options[3].is("preconfig") && options[3].given == "--preconfig");
    EXPECT_TRUE(options[4].is("name") && options[4].value == "-qmp"); // a value may look like an option
    EXPECT_TRUE(options[5].is("future") && options[5].value == "x");
}

TEST(QemuOptions, PropertiesFollowQemusSyntax) {
    const auto p = Properties::parse("socket,id=a,,b,server,nowait,nodelay,path=x=y,id2=", "backend");
    ASSERT_TRUE(p);
    EXPECT_EQ(p->get("backend"), "socket");
    EXPECT_EQ(p->get("id"), "a,b");
    EXPECT_TRUE(p->flag("server", false));
    EXPECT_FALSE(p->flag("wait", true));
    EXPECT_TRUE(p->flag("nodelay", false));
    EXPECT_EQ(p->get("path"), "x=y");
    EXPECT_EQ(p->get("id2"), "");
    EXPECT_FALSE(p->get("none"));
    EXPECT_EQ(p->to_string("backend"), "socket,id=a,,b,server=on,wait=off,nodelay=on,path=x=y,id2=");
}

TEST(QemuOptions, TheLastValueWinsAndSetReplacesAll) {
    auto p = Properties::parse("a=1,b=2,a=3").value();
    EXPECT_EQ(p.get("a"), "3");
    p.set("a", "4");
    EXPECT_EQ(p.to_string(), "a=4,b=2");
    p.erase("b");
    EXPECT_EQ(p.to_string(), "a=4");
}

TEST(QemuOptions, JsonIsReadAsTheSameKeys) {
    const auto p =
        Properties::parse(R"({"qom-type":"memory-backend-file","size":4096,"share":true,"host-nodes":[0,1],"a":{"b":null}})");
    ASSERT_TRUE(p);
    EXPECT_EQ(p->get("qom-type"), "memory-backend-file");
    EXPECT_EQ(p->get("size"), "4096");
    EXPECT_TRUE(p->flag("share", false));
    EXPECT_EQ(p->get("host-nodes.1"), "1");
    EXPECT_EQ(p->get("a.b"), "null");
    for (const char* bad : {"{", "{\"a\":}", "{]", "{\"a\":1} x"}) {
        EXPECT_EQ(Properties::parse(bad).error().code, ErrorCode::invalid_argument) << bad;
    }
}

TEST(QemuOptions, Sizes) {
    constexpr std::uint64_t mib = 1024 * 1024;
    const std::vector<std::tuple<std::string, std::uint64_t, std::optional<std::uint64_t>>> rows{
        {"4096", mib, 4096 * mib},
        {"4096", 1, 4096},
        {"4G", mib, 4096 * mib},
        {"4g", 1, 4096 * mib},
        {"1.5G", mib, 1536 * mib},
        {"512M", 1, 512 * mib},
        {"64k", 1, 65536},
        {"100B", mib, 100},
        {"1T", mib, 1048576 * mib},
        {"0x1000", 1, 4096},
        {"0x10", mib, 16 * mib},
        {"0", mib, 0},
        {"", 1, std::nullopt},
        {"G", 1, std::nullopt},
        {"4X", 1, std::nullopt},
        {"4GB", 1, std::nullopt},
        {"-1", 1, std::nullopt},
        {"16E", 1, std::nullopt},
        {"0xg", 1, std::nullopt},
        {"99999999999999999999", 1, std::nullopt},
        {"15.99999999999E", 1, std::nullopt}};
    for (const auto& [text, unit, bytes] : rows) {
        if (text.starts_with("15.9")) {
            EXPECT_TRUE(parse_size(text, unit)) << text; // just below 2^64
        } else {
            EXPECT_EQ(parse_size(text, unit), bytes) << text;
        }
    }
}

TEST(QemuOptions, Switches) {
    for (const char* on : {"on", "yes", "true", "y"}) {
        EXPECT_EQ(parse_switch(on), true);
    }
    for (const char* off : {"off", "no", "false", "n"}) {
        EXPECT_EQ(parse_switch(off), false);
    }
    EXPECT_FALSE(parse_switch("maybe"));
}

} // namespace
} // namespace pageferry::hypervisor
