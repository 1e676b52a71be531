// The transition table as a page of documentation: docs/states.md.
//
// Pure; any thread.
#pragma once

#include <string>

namespace pageferry::statemachine {

// Markdown: for each side a Mermaid state diagram and a table. The same text for the same table.
std::string document();

} // namespace pageferry::statemachine
