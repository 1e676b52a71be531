// A file descriptor with an owner: closed when the owner goes, moved but never copied.
//
// Threads: an Fd belongs to one thread at a time; the number inside may be used by others while the owner lives.
#pragma once

#include <unistd.h>

#include <fcntl.h>
#include <utility>

namespace pageferry {

class Fd {
public:
    Fd() = default;
    explicit Fd(int number) : number_(number) {}
    Fd(Fd&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
    Fd& operator=(Fd&& other) noexcept {
        if (this != &other) {
            reset(std::exchange(other.number_, -1));
        }
        return *this;
    }
    Fd(const Fd&) = delete;
    Fd& operator=(const Fd&) = delete;
    ~Fd() { reset(); }

    [[nodiscard]] int get() const { return number_; }
    [[nodiscard]] explicit operator bool() const { return number_ >= 0; }
    // Gives the number away; the caller closes it.
    [[nodiscard]] int release() { return std::exchange(number_, -1); }
    void reset(int number = -1) {
        if (number_ >= 0) {
            ::close(number_); // Linux frees the number whatever close answers.
        }
        number_ = number;
    }
    // A second descriptor of the same open file, close-on-exec; empty when the process has no descriptor left.
    [[nodiscard]] Fd duplicate() const { return Fd{::fcntl(number_, F_DUPFD_CLOEXEC, 0)}; }

private:
    int number_ = -1;
};

} // namespace pageferry
