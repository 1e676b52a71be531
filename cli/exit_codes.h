// The exit codes of `pageferry`, the only place that names them; `pageferry --help` and docs/cli.md print the same list.
//
// Pure data; any thread.
#pragma once

#include <array>

namespace pageferry::cli {

enum ExitCode : int {
    exit_ok = 0,
    exit_failed = 1,
    exit_usage = 2,
    exit_unreachable = 3,
    exit_cancelled = 4,
    exit_timeout = 5,
    exit_paused = 6,
    exit_refused = 7,
    exit_left = 130,
};

struct ExitCodeText {
    ExitCode code;
    const char* text;
};

inline constexpr std::array<ExitCodeText, 9> exit_code_texts{{
    {.code = exit_ok, .text = "what was asked for is done"},
    {.code = exit_failed,
     .text = "the migration failed, or the monitor refused to start it; until the switchover the guest runs on at the source"},
    {.code = exit_usage, .text = "the command line is wrong; nothing was sent"},
    {.code = exit_unreachable, .text = "the monitor cannot be reached, went away, or does not answer"},
    {.code = exit_cancelled, .text = "the migration was cancelled; the guest runs on at the source"},
    {.code = exit_timeout, .text = "--timeout passed; the migration was cancelled"},
    {.code = exit_paused, .text = "a postcopy migration lost its connection (postcopy-paused) and waits for recovery"},
    {.code = exit_refused, .text = "the monitor refused a capability, a parameter or a command; the migration is as it was"},
    {.code = exit_left, .text = "left on a second Ctrl-C (watch, and in postcopy: on the first) before the migration had ended"},
}};

} // namespace pageferry::cli
