#include "monitor/event_loop.h"

#include "base/fd.h"

#include <poll.h>
#include <sys/epoll.h>

#include <cerrno>

#include <utility> // Boost 1.74's awaitable.hpp uses std::exchange without it

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

namespace pageferry::monitor {

namespace asio = boost::asio;

void post(asio::io_context& io, std::function<void()> function) {
    asio::post(io, std::move(function));
}

bool is_ready(int fd, short events) {
    pollfd entry{.fd = fd, .events = events, .revents = 0};
    return ::poll(&entry, 1, 0) > 0;
}

struct Watch::Implementation : std::enable_shared_from_this<Implementation> {
    explicit Implementation(asio::io_context& io) : descriptor(io), timer(io) {}

    void wait(asio::posix::descriptor_base::wait_type kind, std::function<void()> function) {
        if (always_ready) {
            asio::post(timer.get_executor(), [self = shared_from_this(), call = std::move(function)] {
                if (!self->stopped) {
                    call();
                }
            });
            return;
        }
        descriptor.async_wait(
            kind, [self = shared_from_this(), kind, call = std::move(function)](const boost::system::error_code& error) {
                if (error || self->stopped) {
                    return;
                }
                if (is_ready(self->descriptor.native_handle(), kind == writing ? POLLOUT : POLLIN)) {
                    call();
                } else {
                    self->wait(kind, call);
                }
            });
    }

    static constexpr auto writing = asio::posix::descriptor_base::wait_write;
    asio::posix::stream_descriptor descriptor;
    asio::steady_timer timer;
    bool always_ready = false;
    bool stopped = false;
};

namespace {
// Boost.Asio takes a descriptor that epoll does not, and then never calls back.
int why_it_cannot_be_waited_for(int fd) {
    const Fd epoll{::epoll_create1(EPOLL_CLOEXEC)};
    epoll_event event{};
    return epoll && ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : errno;
}
} // namespace

Result<Watch> Watch::open(asio::io_context& io, int fd) {
    const int why = why_it_cannot_be_waited_for(fd);
    if (why == EPERM) { // what poll(2) calls always ready: a regular file, /dev/null
        auto implementation = std::make_shared<Implementation>(io);
        implementation->always_ready = true;
        return Watch{std::move(implementation)};
    }
    if (why != 0) {
        return std::unexpected{errno_error(why, "epoll_ctl", "descriptor " + std::to_string(fd))};
    }
    auto implementation = std::make_shared<Implementation>(io);
    boost::system::error_code error;
    if (implementation->descriptor.assign(fd, error)) {
        return std::unexpected{errno_error(error.value(), "wait for", "descriptor " + std::to_string(fd))};
    }
    return Watch{std::move(implementation)};
}

Watch::Watch(std::shared_ptr<Implementation> implementation) : implementation_(std::move(implementation)) {}
Watch::Watch(Watch&&) noexcept = default;
Watch& Watch::operator=(Watch&& other) noexcept {
    std::swap(implementation_, other.implementation_); // what was here is cancelled when other goes
    return *this;
}

// What may throw here is Boost's, where memory for a cancelled wait's handler is short: then there is no way on.
Watch::~Watch() { // NOLINT(bugprone-exception-escape)
    if (implementation_) {
        implementation_->stopped = true;
        implementation_->timer.cancel();
        if (implementation_->descriptor.is_open()) {
            (void)implementation_->descriptor.release(); // cancels the waits; the descriptor stays its owner's
        }
    }
}

void Watch::when_readable(std::function<void()> function) {
    implementation_->wait(asio::posix::descriptor_base::wait_read, std::move(function));
}

void Watch::when_writable(std::function<void()> function) {
    implementation_->wait(asio::posix::descriptor_base::wait_write, std::move(function));
}

void Watch::later(std::chrono::milliseconds delay, std::function<void()> function) {
    implementation_->timer.expires_after(delay);
    implementation_->timer.async_wait(
        [self = implementation_, call = std::move(function)](const boost::system::error_code& error) {
            if (!error && !self->stopped) {
                call();
            }
        });
}

} // namespace pageferry::monitor
