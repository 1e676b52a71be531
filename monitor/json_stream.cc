#include "monitor/json_stream.h"

#include <algorithm>
#include <utility>

namespace pageferry::monitor {

namespace {

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}
bool is_structural(char c) {
    return c == '{' || c == '}' || c == '[' || c == ']' || c == ',' || c == ':';
}
// What may stand inside a string: QEMU's lexer leaves UTF-8 to the parser, but for two bytes that no encoding has.
bool is_string_byte(char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte >= 0x20 && byte <= 0xfd;
}
// Where QEMU's lexer takes up again after garbage.
bool ends_recovery(char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 || byte >= 0xfe || is_structural(c);
}

} // namespace

void JsonStream::feed(std::string_view bytes, std::vector<Fd> fds) {
    for (Fd& fd : fds) {
        fds_.push_back(std::move(fd));
    }
    while (!bytes.empty()) {
        if (const std::size_t length = inside_string(bytes); length > 0) {
            text_ += bytes.substr(0, length);
            bytes.remove_prefix(length);
        } else {
            feed_byte(bytes.front());
            bytes.remove_prefix(1);
        }
    }
}

std::size_t JsonStream::inside_string(std::string_view bytes) const {
    if (state_ != State::double_quoted && state_ != State::single_quoted) {
        return 0;
    }
    const char quote = state_ == State::double_quoted ? '"' : '\'';
    const std::string_view room = bytes.substr(0, limits_.bytes - std::min(limits_.bytes, text_.size()));
    const auto end = std::ranges::find_if(room, [quote](char c) { return c == quote || c == '\\' || !is_string_byte(c); });
    return static_cast<std::size_t>(end - room.begin());
}

std::optional<Frame> JsonStream::next() {
    if (frames_.empty()) {
        return std::nullopt;
    }
    Frame frame = std::move(frames_.front());
    frames_.pop_front();
    return frame;
}

void JsonStream::feed_byte(char byte) {
    while (!step(byte)) {
    }
    // White space counts too, unlike in QEMU: it is kept here until the message ends.
    if (text_.size() > limits_.bytes) {
        emit("JSON token size limit exceeded");
        state_ = State::start;
    }
}

bool JsonStream::step(char byte) {
    const auto take = [&](State next) {
        text_ += byte;
        state_ = next;
        return true;
    };
    const auto begin = [&](State next) {
        token_begin_ = text_.size();
        return take(next);
    };
    const auto garbage = [&] {
        stray(byte);
        return true;
    };
    const auto end_before = [&] {
        end_token();
        return false;
    };
    switch (state_) {
    case State::recovery:
        if (!ends_recovery(byte)) {
            return true;
        }
        state_ = State::start;
        return false;
    case State::start:
        if (is_space(byte)) {
            if (!text_.empty()) {
                text_ += byte;
            }
            return true;
        }
        if (is_structural(byte)) {
            structural(byte);
            return true;
        }
        if (byte == '"' || byte == '\'') {
            return begin(byte == '"' ? State::double_quoted : State::single_quoted);
        }
        if (byte == '-') {
            return begin(State::sign);
        }
        if (is_digit(byte)) {
            return begin(byte == '0' ? State::zero : State::digits);
        }
        if (byte >= 'a' && byte <= 'z') {
            return begin(State::keyword);
        }
        token_begin_ = text_.size();
        return garbage();
    case State::double_quoted:
    case State::single_quoted:
        if (byte == (state_ == State::double_quoted ? '"' : '\'')) {
            text_ += byte;
            end_token();
            return true;
        }
        if (byte == '\\') {
            return take(state_ == State::double_quoted ? State::double_escape : State::single_escape);
        }
        return is_string_byte(byte) ? take(state_) : garbage();
    case State::double_escape: return is_string_byte(byte) ? take(State::double_quoted) : garbage();
    case State::single_escape: return is_string_byte(byte) ? take(State::single_quoted) : garbage();
    case State::sign:
        if (!is_digit(byte)) {
            return garbage();
        }
        return take(byte == '0' ? State::zero : State::digits);
    case State::zero:
    case State::digits:
        if (byte == '.') {
            return take(State::point);
        }
        if (byte == 'e' || byte == 'E') {
            return take(State::exponent);
        }
        if (is_digit(byte)) {
            return state_ == State::digits ? take(State::digits) : garbage();
        }
        return end_before();
    case State::point: return is_digit(byte) ? take(State::fraction) : garbage();
    case State::fraction:
        if (byte == 'e' || byte == 'E') {
            return take(State::exponent);
        }
        return is_digit(byte) ? take(State::fraction) : end_before();
    case State::exponent:
        if (byte == '+' || byte == '-') {
            return take(State::exponent_sign);
        }
        return is_digit(byte) ? take(State::exponent_digits) : garbage();
    case State::exponent_sign: return is_digit(byte) ? take(State::exponent_digits) : garbage();
    case State::exponent_digits: return is_digit(byte) ? take(State::exponent_digits) : end_before();
    case State::keyword: return byte >= 'a' && byte <= 'z' ? take(State::keyword) : end_before();
    }
    return true;
}

void JsonStream::structural(char byte) {
    text_ += byte;
    braces_ += byte == '{' ? 1 : byte == '}' ? -1 : 0;
    brackets_ += byte == '[' ? 1 : byte == ']' ? -1 : 0;
    end_token();
}

void JsonStream::end_token() {
    state_ = State::start;
    ++tokens_;
    if (tokens_ > limits_.tokens) {
        emit("JSON token count limit exceeded");
    } else if (braces_ + brackets_ > static_cast<long>(limits_.nesting)) {
        emit("JSON nesting depth limit exceeded");
    } else if ((braces_ <= 0 && brackets_ <= 0) || braces_ < 0 || brackets_ < 0) {
        emit({}); // what closes too much is a message too: the parser finds the fault in it
    }
}

void JsonStream::stray(char byte) {
    std::string error = "JSON parse error, stray '" + text_.substr(token_begin_);
    if (byte != '\0') { // where QEMU's own text ends
        error += byte;
    }
    error += '\'';
    emit(std::move(error));
    state_ = State::recovery;
}

void JsonStream::emit(std::string error) {
    Frame frame;
    if (error.empty()) {
        frame.text = std::move(text_);
    }
    frame.error = std::move(error);
    frame.fds = std::move(fds_);
    frames_.push_back(std::move(frame));
    text_.clear();
    fds_.clear();
    token_begin_ = 0;
    tokens_ = 0;
    braces_ = 0;
    brackets_ = 0;
}

} // namespace pageferry::monitor
