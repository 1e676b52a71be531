#include "transport/session/messages.h"

#include <gtest/gtest.h>

namespace pageferry::transport::session {
namespace {

constexpr std::uint64_t mib = 1ULL << 20U;

RamTableEntry entry(std::uint32_t block, std::string name, std::uint64_t length, std::uint64_t page_size = 4096) {
    return {.block = block, .name = std::move(name), .length = length, .page_size = page_size};
}

Hello speaks(std::uint16_t least, std::uint16_t most) {
    return {.version_min = least, .version_max = most, .software = "other 9"};
}

std::string refusal(const std::vector<RamTableEntry>& source, const std::vector<RamTableEntry>& local) {
    const auto matches = match_ram_tables(source, local);
    EXPECT_FALSE(matches);
    if (matches) {
        return {};
    }
    EXPECT_EQ(matches.error().code, ErrorCode::invalid_argument);
    EXPECT_FALSE(matches.error().remedy.empty());
    return matches.error().object + ": " + matches.error().reason;
}

TEST(Version, TheHighestBothKnow) {
    EXPECT_EQ(agree_version(speaks(version_min, version_max)), version_max);
    EXPECT_EQ(agree_version(speaks(1, 0xffff)), version_max);
}

TEST(Version, NoneInCommonNamesBothRanges) {
    const auto version = agree_version(speaks(version_max + 1, version_max + 3));
    ASSERT_FALSE(version);
    EXPECT_EQ(version.error().code, ErrorCode::version);
    EXPECT_EQ(version.error().reason, "the peer speaks versions 2 to 4, this side version 1");
    EXPECT_EQ(version.error().object, "other 9");
}

TEST(RamTables, MatchByNameInAnyOrder) {
    const std::vector source{entry(3, "pc.ram", 64 * mib), entry(5, "vga", mib), entry(9, "huge", 4 * mib, 2 * mib)};
    const std::vector local{entry(0, "vga", mib), entry(1, "huge", 4 * mib, 2 * mib), entry(2, "pc.ram", 64 * mib)};
    const auto matches = match_ram_tables(source, local);
    ASSERT_TRUE(matches) << matches.error().to_string();
    EXPECT_EQ(*matches, (std::vector<std::size_t>{2, 0, 1}));
    EXPECT_TRUE(match_ram_tables({}, {}));
}

TEST(RamTables, DifferencesNameTheBlockAndBothFigures) {
    EXPECT_EQ(refusal({entry(0, "pc.ram", 64 * mib)}, {entry(0, "pc.ram", 128 * mib)}),
              "RAM block pc.ram: 67108864 bytes (64 MiB) on the source, 134217728 bytes (128 MiB) on the destination");
    EXPECT_EQ(refusal({entry(0, "pc.ram", 64 * mib)}, {entry(0, "pc.ram", 64 * mib, 2 * mib)}),
              "RAM block pc.ram: pages of 4096 bytes (4 KiB) on the source, of 2097152 bytes (2 MiB) on the destination");
    EXPECT_EQ(refusal({entry(0, "a", mib), entry(1, "b", mib)}, {entry(0, "a", mib)}),
              "RAM block b: 1048576 bytes (1 MiB) on the source, missing on the destination");
    EXPECT_EQ(refusal({entry(0, "a", mib)}, {entry(0, "a", mib), entry(1, "b", 5000)}),
              "RAM block b: missing on the source, 5000 bytes on the destination");
    EXPECT_EQ(refusal({entry(0, "a", mib), entry(1, "a", mib)}, {entry(0, "a", mib)}), "RAM block a: the source names it twice");
    EXPECT_EQ(refusal({entry(0, "a", mib)}, {entry(0, "a", mib), entry(1, "a", mib)}),
              "RAM block a: the destination names it twice");
}

} // namespace
} // namespace pageferry::transport::session
