// Sizes, rates and times: read from the command line, written for people.
//
// Pure functions; any thread.
#pragma once

#include "base/error.h"

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace pageferry::cli {

// "1024", "64K", "1.5G", "1GiB", "2T", "1G/s": powers of 1024. invalid_argument for anything else, negative or above 2^63-1.
Result<std::uint64_t> parse_size(std::string_view text);

// "0 B", "1023 B", "1.00 KiB", "12.3 MiB", "123 GiB": three digits.
std::string format_size(std::uint64_t bytes);
std::string format_rate(double bytes_per_second); // "1.17 GiB/s"
// "870 ms", "1.9 s", "12 s", "2 m 05 s", "3 h 20 m".
std::string format_duration(std::chrono::milliseconds time);
// "85 us", "1.20 ms", "2.05 s": three digits.
std::string format_latency(std::chrono::microseconds time);
// "14:03:27.512", local time.
std::string format_clock(std::chrono::microseconds since_1970);
// "2026-03-01T13:03:27.512345Z", UTC, for machines.
std::string format_timestamp(std::chrono::microseconds since_1970);

} // namespace pageferry::cli
