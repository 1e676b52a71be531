// A byte stream to a QMP peer, with descriptors (SCM_RIGHTS) where it is a socket: non-blocking reads into a callback, queued
// writes.
//
// Threads: the io_context's one thread. No callback runs inside send(), close() or the constructor; `received` runs inside
// drain().
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace boost::asio {
class io_context;
}

namespace pageferry::monitor {

class Channel {
public:
    struct Handlers {
        std::function<void(std::string_view bytes, std::vector<Fd> fds)> received;
        // Once each: when the peer sends no more (gone false: it may still read) or the stream is broken in both directions (gone
        // true). Not after close().
        std::function<void(bool gone)> ended;
        std::function<void()> flushed; // the kernel has taken all that had to wait; may be empty
    };

    // One socket, or a pair such as standard input and output. Makes them non-blocking; a regular file is as
    // good as any.
    static Result<std::unique_ptr<Channel>> open(boost::asio::io_context& io, Fd in_and_out);
    static Result<std::unique_ptr<Channel>> open(boost::asio::io_context& io, Fd in, Fd out);

    Channel(const Channel&) = delete;
    Channel& operator=(const Channel&) = delete;
    ~Channel(); // closes; what is queued and not taken by the kernel is lost

    void start(Handlers handlers);
    // The descriptors travel with the first byte, and are closed here once sent. Dropped silently after the stream broke.
    void send(std::string bytes, std::vector<Fd> fds = {});
    void pause_reading(bool pause);
    void drain(); // reads what is there now, without waiting
    void close();

    [[nodiscard]] std::size_t queued_bytes() const;

private:
    struct Implementation;
    explicit Channel(std::shared_ptr<Implementation> implementation);
    std::shared_ptr<Implementation> implementation_;
};

} // namespace pageferry::monitor
