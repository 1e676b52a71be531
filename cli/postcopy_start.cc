#include "cli/postcopy_start.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>

namespace pageferry::cli {

Result<PostcopyStart> parse_postcopy_start(std::string_view text) {
    if (text.empty() || text == "now") {
        return PostcopyStart{};
    }
    if (text == "auto") {
        return PostcopyStart{.when = PostcopyStart::When::automatic, .after = {}};
    }
    double seconds = 0;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), seconds, std::chars_format::fixed);
    constexpr double longest = 1e8;
    if (problem != std::errc{} || end != text.data() + text.size() || !(seconds >= 0) || seconds > longest) {
        return std::unexpected(make_error(ErrorCode::invalid_argument, "read --postcopy", std::string{text},
                                          "This is neither seconds nor auto",
                                          "write --postcopy, --postcopy=10 or --postcopy=auto"));
    }
    return PostcopyStart{.when = PostcopyStart::When::after, .after = std::chrono::milliseconds{std::llround(seconds * 1000)}};
}

void RoundWatch::see(std::uint64_t round, std::uint64_t remaining) {
    if (round == 0) {
        return; // nothing was counted yet
    }
    if (round < round_) { // another migration
        *this = RoundWatch{};
    }
    if (round == round_) {
        most_ = std::max(most_, remaining);
        return;
    }
    if (round_ != 0) {
        if (before_ && static_cast<double>(most_) > (1 - least_progress) * static_cast<double>(*before_)) {
            ++not_shrunk_;
        }
        before_ = most_;
    }
    round_ = round;
    most_ = remaining;
}

} // namespace pageferry::cli
