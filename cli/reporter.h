// Where the course of a migration is told: a terminal with one live line, or JSON lines.
//
// Threads: one for each reporter.
#pragma once

#include "cli/render.h"

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

namespace pageferry::cli {

class Reporter {
public:
    virtual ~Reporter() = default;
    virtual void state(const StateChange& change) = 0;
    virtual void progress(const ProgressView& view) = 0;
    virtual void note(const std::string& text) = 0; // for a person; nothing in JSON
    virtual void finish(const Summary& summary, int exit_code) = 0;
    // How often it wants fresh figures.
    [[nodiscard]] virtual std::chrono::milliseconds interval() const = 0;
};

// The live line is redrawn in place and cut to the terminal's width as it is at that moment.
std::unique_ptr<Reporter> make_terminal_reporter(std::FILE* terminal, std::chrono::milliseconds interval);
std::unique_ptr<Reporter> make_json_reporter(std::FILE* out, std::chrono::milliseconds interval);
// JSON where it is asked for or `out` is no terminal. interval 0: 200 ms on a terminal, a second for JSON.
std::unique_ptr<Reporter> make_reporter(std::FILE* out, bool json, std::chrono::milliseconds interval);

} // namespace pageferry::cli
