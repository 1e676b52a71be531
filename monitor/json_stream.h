// Cuts a byte stream into top-level JSON values, keeping their raw text: the same cuts as QEMU's lexer and streamer make, so that
// what is passed on is exactly one message for QEMU too. Descriptors that arrive with bytes are given out with the first message
// that ends in or after them.
//
// Pure: no I/O. One thread at a time.
#pragma once

#include "base/fd.h"

#include <cstddef>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pageferry::monitor {

struct Frame {
    std::string text;  // the value's bytes, from its first to its last
    std::string error; // not empty: no value, but QEMU's words for what is wrong ("JSON parse error, stray 'x'")
    std::vector<Fd> fds;
};

// QEMU's limits for one message.
struct JsonLimits {
    std::size_t bytes = std::size_t{64} << 20;
    std::size_t tokens = std::size_t{2} << 20;
    std::size_t nesting = 1024;
};

class JsonStream {
public:
    explicit JsonStream(JsonLimits limits = {}) : limits_(limits) {}

    void feed(std::string_view bytes, std::vector<Fd> fds = {});
    std::optional<Frame> next();
    [[nodiscard]] bool has_next() const { return !frames_.empty(); }
    // Whether a message has begun and not ended.
    [[nodiscard]] bool in_message() const { return !text_.empty(); }

private:
    enum class State : unsigned char {
        start,
        recovery,
        double_quoted,
        double_escape,
        single_quoted,
        single_escape,
        sign,
        zero,
        digits,
        point,
        fraction,
        exponent,
        exponent_sign,
        exponent_digits,
        keyword,
    };

    void feed_byte(char byte);
    // How many of these bytes are a string's, one like the other. Most of what QEMU says is strings.
    [[nodiscard]] std::size_t inside_string(std::string_view bytes) const;
    bool step(char byte); // false: the byte ended a token before it and is still to be looked at
    void structural(char byte);
    void end_token();
    void emit(std::string error);
    void stray(char byte);

    JsonLimits limits_;
    State state_ = State::start;
    std::string text_;
    std::size_t token_begin_ = 0; // where in text_ the token under way begins
    std::size_t tokens_ = 0;
    long braces_ = 0;
    long brackets_ = 0;
    std::vector<Fd> fds_;
    std::deque<Frame> frames_;
};

} // namespace pageferry::monitor
