// What `pageferry probe` tells: lines in sections.
//
// Plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pageferry::cli {

struct Finding {
    enum class Verdict { none, ok, no }; // none: nothing to judge
    std::string what;
    std::string value;
    Verdict verdict = Verdict::none;
    std::string reason;                 // of a `no`
    std::string remedy;                 // of a `no`; empty where nothing can be said
    std::optional<std::uint64_t> bytes; // the value as a number, for tools
};

struct Section {
    std::string title;
    std::vector<Finding> findings;
    std::string details; // more for tools: a JSON object, or empty
};

} // namespace pageferry::cli
