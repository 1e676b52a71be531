#include "monitor/channel.h"

#include "monitor/event_loop.h"
#include "monitor/fd_message.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <deque>
#include <optional>
#include <utility>

namespace pageferry::monitor {

namespace {

constexpr std::size_t read_size = std::size_t{64} << 10;

struct Outgoing {
    std::string bytes;
    std::size_t done = 0;
    std::vector<Fd> fds;
};

bool is_socket(int fd) {
    int type = 0;
    socklen_t length = sizeof type;
    return ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0;
}

Result<void> set_nonblocking(int fd) {
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
        return std::unexpected{errno_error(errno, "fcntl O_NONBLOCK", "descriptor " + std::to_string(fd))};
    }
    return {};
}

// The stream is shut in both directions: the peer is not there to read either.
bool is_hung_up(int fd) {
    pollfd poll{.fd = fd, .events = 0, .revents = 0};
    return ::poll(&poll, 1, 0) == 1 && (poll.revents & (POLLHUP | POLLERR)) != 0;
}

} // namespace

struct Channel::Implementation : std::enable_shared_from_this<Implementation> {
    Implementation(boost::asio::io_context& loop, Fd in_fd, Fd out_fd) : io(loop), in(std::move(in_fd)), out(std::move(out_fd)) {}

    [[nodiscard]] int write_fd() const { return out ? out.get() : in.get(); }

    void arm_read() {
        if (!open || !handlers || !in_watch || reading || paused || at_end) {
            return;
        }
        reading = true;
        in_watch->when_readable([self = weak_from_this()] {
            if (const auto alive = self.lock()) {
                alive->reading = false;
                alive->read_once();
                alive->arm_read();
            }
        });
    }

    // False when there is nothing more to read now.
    bool read_once() {
        if (!open || paused || at_end) {
            return false;
        }
        std::array<char, read_size> buffer; // NOLINT(cppcoreguidelines-pro-type-member-init): filled by the kernel
        auto got = in_is_socket ? receive_with_fds(in.get(), buffer) : read_plain(buffer);
        if (!got && got.error().code == ErrorCode::again) {
            return false;
        }
        if (!got || got->bytes == 0) {
            at_end = true;
            report_end(!got || is_hung_up(in.get()));
            return false;
        }
        const auto keep = handlers; // the callback may close this channel
        keep->received(std::string_view{buffer.data(), got->bytes}, std::move(got->fds));
        return true;
    }

    Result<Received> read_plain(std::span<char> buffer) const {
        ssize_t got = -1;
        do {
            got = ::read(in.get(), buffer.data(), buffer.size());
        } while (got < 0 && errno == EINTR);
        if (got < 0) {
            return std::unexpected{errno_error(errno, "read")};
        }
        return Received{.bytes = static_cast<std::size_t>(got), .fds = {}};
    }

    Result<std::size_t> write_some(const Outgoing& item) const {
        const std::string_view rest = std::string_view{item.bytes}.substr(item.done);
        if (out_is_socket) {
            return send_with_fds(write_fd(), rest, item.fds);
        }
        ssize_t sent = -1;
        do {
            sent = ::write(write_fd(), rest.data(), rest.size());
        } while (sent < 0 && errno == EINTR);
        if (sent < 0) {
            return std::unexpected{errno_error(errno, "write")};
        }
        return static_cast<std::size_t>(sent);
    }

    void flush() {
        while (open && !broken && !queue.empty()) {
            Outgoing& item = queue.front();
            const auto sent = write_some(item);
            if (!sent) {
                if (sent.error().code == ErrorCode::again) {
                    arm_write();
                } else {
                    broken = true;
                    queue.clear();
                    queued = 0;
                    report_end(true);
                }
                return;
            }
            item.fds.clear();
            item.done += *sent;
            queued -= *sent;
            if (item.done == item.bytes.size()) {
                queue.pop_front();
            }
        }
    }

    void arm_write() {
        auto& watch = out_watch ? out_watch : in_watch;
        if (writing || !watch) {
            return;
        }
        writing = true;
        watch->when_writable([self = weak_from_this()] {
            if (const auto alive = self.lock()) {
                alive->writing = false;
                alive->flush();
                const auto keep = alive->handlers;
                if (keep && keep->flushed && alive->queue.empty() && !alive->broken) {
                    keep->flushed();
                }
            }
        });
    }

    void report_end(bool gone) {
        post(io, [self = weak_from_this(), gone] {
            const auto alive = self.lock();
            if (!alive || !alive->open || !alive->handlers || alive->reported_gone) {
                return;
            }
            alive->reported_gone = gone;
            const auto keep = alive->handlers;
            keep->ended(gone);
        });
    }

    boost::asio::io_context& io;
    Fd in;
    Fd out;
    std::optional<Watch> in_watch; // after the descriptors: it goes before them
    std::optional<Watch> out_watch;
    bool in_is_socket = false;
    bool out_is_socket = false;
    std::shared_ptr<Handlers> handlers;
    std::deque<Outgoing> queue;
    std::size_t queued = 0; // bytes in queue
    bool open = true;
    bool reading = false;
    bool writing = false;
    bool paused = false;
    bool at_end = false;
    bool broken = false;
    bool reported_gone = false;
};

Result<std::unique_ptr<Channel>> Channel::open(boost::asio::io_context& io, Fd in_and_out) {
    return open(io, std::move(in_and_out), Fd{});
}

Result<std::unique_ptr<Channel>> Channel::open(boost::asio::io_context& io, Fd in, Fd out) {
    auto made = std::make_shared<Implementation>(io, std::move(in), std::move(out));
    made->in_is_socket = is_socket(made->in.get());
    made->out_is_socket = is_socket(made->write_fd());
    if (!made->out_is_socket && ::signal(SIGPIPE, SIG_IGN) == SIG_ERR) { // a pipe has no MSG_NOSIGNAL
        return std::unexpected{errno_error(errno, "signal")};
    }
    auto watch = Watch::open(io, made->in.get());
    if (!watch) {
        return std::unexpected{std::move(watch).error()};
    }
    made->in_watch.emplace(std::move(*watch));
    if (auto set = set_nonblocking(made->in.get()); !set) {
        return std::unexpected{std::move(set).error()};
    }
    if (made->out) {
        auto out_watch = Watch::open(io, made->out.get());
        if (!out_watch) {
            return std::unexpected{std::move(out_watch).error()};
        }
        made->out_watch.emplace(std::move(*out_watch));
        if (auto set = set_nonblocking(made->out.get()); !set) {
            return std::unexpected{std::move(set).error()};
        }
    }
    return std::unique_ptr<Channel>{new Channel{std::move(made)}};
}

Channel::Channel(std::shared_ptr<Implementation> implementation) : implementation_(std::move(implementation)) {}

Channel::~Channel() {
    close();
}

void Channel::start(Handlers handlers) {
    implementation_->handlers = std::make_shared<Handlers>(std::move(handlers));
    implementation_->arm_read();
}

void Channel::send(std::string bytes, std::vector<Fd> fds) {
    Implementation& self = *implementation_;
    if (!self.open || self.broken || bytes.empty()) {
        return;
    }
    self.queued += bytes.size();
    self.queue.push_back({std::move(bytes), 0, std::move(fds)});
    if (!self.writing) {
        self.flush();
    }
}

void Channel::pause_reading(bool pause) {
    implementation_->paused = pause;
    implementation_->arm_read();
}

void Channel::drain() {
    const auto keep = implementation_;
    while (keep->handlers && keep->read_once()) {
    }
}

void Channel::close() {
    Implementation& self = *implementation_;
    if (!self.open) {
        return;
    }
    self.open = false;
    self.queue.clear();
    self.queued = 0;
    self.in_watch.reset();
    self.out_watch.reset();
    self.in.reset();
    self.out.reset();
    self.handlers.reset();
}

std::size_t Channel::queued_bytes() const {
    return implementation_->queued;
}

} // namespace pageferry::monitor
