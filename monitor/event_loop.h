// The few things the monitor needs of Boost.Asio, without its headers: run something later, and wait for a descriptor.
//
// Threads: the io_context's one thread.
#pragma once

#include "base/error.h"

#include <chrono>
#include <functional>
#include <memory>

namespace boost::asio {
class io_context;
}

namespace pageferry::monitor {

// Runs it from the io_context, never from inside this call.
void post(boost::asio::io_context& io, std::function<void()> function);

// Boost.Asio takes the state of a descriptor that was released for the next one while an event of the old one may still be
// queued, and then tells the new one's waiter of it. So whoever acts on a wait without reading asks again. events: of poll(2).
bool is_ready(int fd, short events);

// Waits for a descriptor that somebody else owns, one wait of each kind at a time. Destroying it cancels: no callback runs any
// more.
class Watch {
public:
    // A regular file is always ready. Fails for a descriptor that is being watched already.
    static Result<Watch> open(boost::asio::io_context& io, int fd);
    Watch(Watch&&) noexcept;
    Watch& operator=(Watch&&) noexcept;
    ~Watch();

    // Once, as soon as it can be read or written, or an end or error is there to be seen.
    void when_readable(std::function<void()> function);
    void when_writable(std::function<void()> function);
    void later(std::chrono::milliseconds delay, std::function<void()> function);

private:
    struct Implementation;
    explicit Watch(std::shared_ptr<Implementation> implementation);
    std::shared_ptr<Implementation> implementation_;
};

} // namespace pageferry::monitor
