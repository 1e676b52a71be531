#include "cli/reporter.h"

#include <sys/ioctl.h>
#include <unistd.h>

namespace pageferry::cli {

namespace {

constexpr const char* erase_line = "\r\x1b[K";

class TerminalReporter : public Reporter {
public:
    TerminalReporter(std::FILE* terminal, std::chrono::milliseconds interval) : terminal_(terminal), interval_(interval) {}
    ~TerminalReporter() override { clear(); }
    TerminalReporter(const TerminalReporter&) = delete;
    TerminalReporter& operator=(const TerminalReporter&) = delete;

    void state(const StateChange& change) override { above(render_state_line(change)); }
    void note(const std::string& text) override { above(text); }
    void progress(const ProgressView& view) override {
        live_ = render_live_line(view, width());
        draw();
    }
    void finish(const Summary& summary, int /*exit_code*/) override {
        clear();
        std::fputs(render_summary(summary).c_str(), terminal_);
        std::fflush(terminal_);
    }
    [[nodiscard]] std::chrono::milliseconds interval() const override { return interval_; }

private:
    // One column stays free: a full last column makes some terminals wrap.
    [[nodiscard]] std::size_t width() const {
        winsize size{};
        if (::ioctl(::fileno(terminal_), TIOCGWINSZ, &size) != 0 || size.ws_col < 2) {
            return 79;
        }
        return size.ws_col - 1U;
    }
    void above(const std::string& text) {
        std::fprintf(terminal_, "%s%s\n", live_.empty() ? "" : erase_line, text.c_str());
        draw();
    }
    void draw() {
        if (!live_.empty()) {
            std::fprintf(terminal_, "%s%s", erase_line, live_.c_str());
        }
        std::fflush(terminal_);
    }
    void clear() {
        if (!live_.empty()) {
            std::fputs(erase_line, terminal_);
            std::fflush(terminal_);
            live_.clear();
        }
    }

    std::FILE* terminal_;
    std::chrono::milliseconds interval_;
    std::string live_;
};

class JsonReporter : public Reporter {
public:
    JsonReporter(std::FILE* out, std::chrono::milliseconds interval) : out_(out), interval_(interval) {}

    void state(const StateChange& change) override { put(json_state(change)); }
    void progress(const ProgressView& view) override { put(json_progress(view)); }
    void note(const std::string& /*text*/) override {}
    void finish(const Summary& summary, int exit_code) override {
        const auto now = std::chrono::system_clock::now().time_since_epoch();
        put(json_summary(summary, exit_code, std::chrono::duration_cast<std::chrono::microseconds>(now)));
    }
    [[nodiscard]] std::chrono::milliseconds interval() const override { return interval_; }

private:
    void put(const std::string& line) {
        std::fprintf(out_, "%s\n", line.c_str());
        std::fflush(out_); // a reader at the other end of a pipe follows live
    }
    std::FILE* out_;
    std::chrono::milliseconds interval_;
};

} // namespace

std::unique_ptr<Reporter> make_terminal_reporter(std::FILE* terminal, std::chrono::milliseconds interval) {
    return std::make_unique<TerminalReporter>(terminal, interval);
}

std::unique_ptr<Reporter> make_json_reporter(std::FILE* out, std::chrono::milliseconds interval) {
    return std::make_unique<JsonReporter>(out, interval);
}

std::unique_ptr<Reporter> make_reporter(std::FILE* out, bool json, std::chrono::milliseconds interval) {
    if (json || ::isatty(::fileno(out)) == 0) {
        return make_json_reporter(out, interval.count() > 0 ? interval : std::chrono::milliseconds{1000});
    }
    return make_terminal_reporter(out, interval.count() > 0 ? interval : std::chrono::milliseconds{200});
}

} // namespace pageferry::cli
