#include "statemachine/document.h"

#include "statemachine/status.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

using namespace pageferry::statemachine;

namespace {

TEST(Document, DocsStatesIsUpToDate) {
    std::ifstream file{PAGEFERRY_SOURCE_DIR "/docs/states.md"};
    ASSERT_TRUE(file) << "docs/states.md is missing: pageferry-states > docs/states.md";
    std::ostringstream text;
    text << file.rdbuf();
    EXPECT_EQ(text.str(), document()) << "run: pageferry-states > docs/states.md";
}

TEST(Document, HasEveryTransition) {
    const std::string text = document();
    for (const Transition& row : transitions()) {
        const std::string line = "| `" + std::string{name_of(row.from)} + "` | `" + std::string{name_of(row.to)} + "` |";
        EXPECT_NE(text.find(line), std::string::npos) << line;
    }
}

} // namespace
