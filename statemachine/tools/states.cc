// pageferry-states: prints docs/states.md.
#include "statemachine/document.h"

#include <cstdio>

int main() {
    const std::string text = pageferry::statemachine::document();
    return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0 ? 0 : 1;
}
