// Ctrl-C and SIGTERM as something poll(2) can wait for.
//
// Threads: made on the main thread before any other starts, so that all inherit the blocked mask.
#pragma once

#include "base/error.h"
#include "base/fd.h"

namespace pageferry::cli {

class Signals {
public:
    // Blocks SIGINT and SIGTERM for this thread and those it starts; they are read from descriptor() from here on.
    static Result<Signals> take();
    // Whether one came; takes it away.
    bool pending();
    [[nodiscard]] int descriptor() const { return fd_.get(); }

private:
    explicit Signals(Fd fd) : fd_(std::move(fd)) {}
    Fd fd_;
};

} // namespace pageferry::cli
