#include "cli/units.h"

#include <gtest/gtest.h>

namespace pageferry::cli {
namespace {

using std::chrono::milliseconds;

TEST(Sizes, AreReadWithUnits) {
    EXPECT_EQ(parse_size("0").value(), 0U);
    EXPECT_EQ(parse_size("1023").value(), 1023U);
    EXPECT_EQ(parse_size("64K").value(), 65536U);
    EXPECT_EQ(parse_size("64k").value(), 65536U);
    EXPECT_EQ(parse_size("1.5G").value(), 3U << 29);
    EXPECT_EQ(parse_size("1GiB").value(), 1U << 30);
    EXPECT_EQ(parse_size("2TB").value(), std::uint64_t{2} << 40);
    EXPECT_EQ(parse_size("1G/s").value(), 1U << 30);
    EXPECT_EQ(parse_size("17B").value(), 17U);
    EXPECT_EQ(parse_size("9223372036854775807").value(), UINT64_MAX >> 1); // "unlimited" as libvirt writes it
}

TEST(Sizes, RefuseWhatIsNone) {
    for (const char* text : {"", "x", "-1", "1X", "1GG", "1 G", "G", "1Gx/s", "nan", "inf", "1e30", "9223372036854775808",
                             "9000000T", "1e5G", "0x10", "+1", "1BiB"}) {
        EXPECT_FALSE(parse_size(text)) << text;
    }
    EXPECT_EQ(parse_size("x").error().code, ErrorCode::invalid_argument);
    EXPECT_NE(parse_size("x").error().to_string().find("512M"), std::string::npos) << "the remedy shows the form";
}

TEST(Sizes, AreWrittenWithThreeDigits) {
    EXPECT_EQ(format_size(0), "0 B");
    EXPECT_EQ(format_size(1023), "1023 B");
    EXPECT_EQ(format_size(1024), "1.00 KiB");
    EXPECT_EQ(format_size(std::uint64_t{1000} << 10), "0.98 MiB") << "never four digits";
    EXPECT_EQ(format_size(12'900'000), "12.3 MiB");
    EXPECT_EQ(format_size(std::uint64_t{123} << 30), "123 GiB");
    EXPECT_EQ(format_size(UINT64_MAX), "16.0 EiB");
    EXPECT_EQ(format_rate(1.5 * (1 << 30)), "1.50 GiB/s");
    EXPECT_EQ(format_rate(-3), "0 B/s");
    EXPECT_EQ(format_rate(1e300), "7.81 EiB/s") << "cut, not undefined";
}

TEST(Durations, AreWrittenForPeople) {
    EXPECT_EQ(format_duration(milliseconds{0}), "0 ms");
    EXPECT_EQ(format_duration(milliseconds{999}), "999 ms");
    EXPECT_EQ(format_duration(milliseconds{1940}), "1.9 s");
    EXPECT_EQ(format_duration(milliseconds{9'960}), "10 s");
    EXPECT_EQ(format_duration(milliseconds{59'499}), "59 s");
    EXPECT_EQ(format_duration(milliseconds{59'500}), "1 m 00 s");
    EXPECT_EQ(format_duration(milliseconds{125'000}), "2 m 05 s");
    EXPECT_EQ(format_duration(milliseconds{12'000'000}), "3 h 20 m");
}

TEST(Timestamps, AreUtcForMachines) {
    EXPECT_EQ(format_timestamp(std::chrono::microseconds{1'000'000'000'000'001}), "2001-09-09T01:46:40.000001Z");
}

TEST(Latencies, HaveThreeDigits) {
    using std::chrono::microseconds;
    EXPECT_EQ(format_latency(microseconds{0}), "0 us");
    EXPECT_EQ(format_latency(microseconds{999}), "999 us");
    EXPECT_EQ(format_latency(microseconds{1000}), "1.00 ms");
    EXPECT_EQ(format_latency(microseconds{12'340}), "12.3 ms");
    EXPECT_EQ(format_latency(microseconds{999'499}), "999 ms");
    EXPECT_EQ(format_latency(microseconds{2'050'000}), "2.05 s");
}

} // namespace
} // namespace pageferry::cli
