// When a migration that precopies is to go on as postcopy.
//
// Pure: time and figures are arguments. Threads: a RoundWatch belongs to one thread at a time.
#pragma once

#include "base/error.h"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>

namespace pageferry::cli {

struct PostcopyStart {
    enum class When { at_once, after, automatic }; // counted from `active`; automatic: when precopy does not converge
    When when = When::at_once;
    std::chrono::milliseconds after{0};
    bool operator==(const PostcopyStart&) const = default;
};

// "now" (or nothing), "auto", or seconds. invalid_argument for anything else.
Result<PostcopyStart> parse_postcopy_start(std::string_view text);

// Counts the rounds of precopy after which hardly less was left than after the round before.
class RoundWatch {
public:
    static constexpr unsigned enough = 3;
    static constexpr double least_progress = 0.05; // of what was left: a round that does away with no more is in vain
    // query-migrate's figures, as often as they are read: which round is under way, and the bytes left of it. Of each round the
    // most that was seen counts: its beginning, as near as it was looked at.
    void see(std::uint64_t round, std::uint64_t remaining);
    [[nodiscard]] unsigned not_shrunk() const { return not_shrunk_; }
    [[nodiscard]] bool hopeless() const { return not_shrunk_ >= enough; }

private:
    std::uint64_t round_ = 0;
    std::uint64_t most_ = 0;              // of the round under way
    std::optional<std::uint64_t> before_; // of the one before it
    unsigned not_shrunk_ = 0;
};

} // namespace pageferry::cli
