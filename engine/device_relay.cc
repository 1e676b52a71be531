#include "engine/device_relay.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

namespace pageferry::engine {

namespace {
constexpr std::size_t read_size = 32UL * 1024; // fits a DeviceState message
} // namespace

Result<std::unique_ptr<DeviceRelay>> DeviceRelay::create(Fd socket, Sink sink) {
    Fd wake{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    if (!wake) {
        return std::unexpected(errno_error(errno, "eventfd", "device state relay"));
    }
    return std::unique_ptr<DeviceRelay>{new DeviceRelay{std::move(socket), std::move(wake), std::move(sink)}};
}

DeviceRelay::DeviceRelay(Fd socket, Fd wake, Sink sink)
    : socket_(std::move(socket)), wake_(std::move(wake)), sink_(std::move(sink)) {}

Result<void> DeviceRelay::begin() {
    try {
        thread_ = std::thread{[this] { run(); }};
    } catch (const std::system_error& error) {
        return std::unexpected(errno_error(error.code().value(), "create a thread", "device state relay"));
    }
    pthread_setname_np(thread_.native_handle(), "pf-device");
    return {};
}

DeviceRelay::~DeviceRelay() {
    {
        const std::lock_guard lock{mutex_};
        stop_ = true;
    }
    wake();
    if (thread_.joinable()) {
        thread_.join();
    }
}

void DeviceRelay::wake() const {
    const std::uint64_t one = 1;
    // An eventfd's counter cannot overflow with ones; EAGAIN would mean that it is readable already.
    [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
}

Result<void> DeviceRelay::write(std::vector<std::byte> bytes) {
    {
        const std::lock_guard lock{mutex_};
        if (error_) {
            return std::unexpected(*error_);
        }
        written_ += bytes.size();
        if (held_) {
            waiting_bytes_ += bytes.size();
            if (waiting_bytes_ > most_held) {
                return std::unexpected(
                    make_error(ErrorCode::resources, "hold back", "device state",
                               "more than " + std::to_string(most_held) + " bytes came after the guest was stopped"));
            }
            waiting_.push_back(std::move(bytes));
            return {};
        }
        outgoing_.push_back(std::move(bytes));
    }
    wake();
    return {};
}

void DeviceRelay::hold() {
    const std::lock_guard lock{mutex_};
    held_ = true;
}

void DeviceRelay::release() {
    {
        const std::lock_guard lock{mutex_};
        held_ = false;
        std::ranges::move(waiting_, std::back_inserter(outgoing_));
        waiting_.clear();
        waiting_bytes_ = 0;
    }
    wake();
}

Result<void> DeviceRelay::drain(std::chrono::milliseconds timeout) {
    std::unique_lock lock{mutex_};
    const std::uint64_t asked = ++drain_asked_;
    lock.unlock();
    wake();
    lock.lock();
    const bool done = changed_.wait_for(lock, timeout, [&] { return drain_done_ >= asked || error_; });
    if (error_) {
        return std::unexpected(*error_);
    }
    if (!done) {
        return std::unexpected(make_error(ErrorCode::timed_out, "drain", "device state stream",
                                          "not all of it could be sent within " + std::to_string(timeout.count()) + " ms"));
    }
    return {};
}

std::uint64_t DeviceRelay::bytes_read() const {
    const std::lock_guard lock{mutex_};
    return read_;
}

std::uint64_t DeviceRelay::bytes_written() const {
    const std::lock_guard lock{mutex_};
    return written_;
}

void DeviceRelay::fail(Error error) {
    {
        const std::lock_guard lock{mutex_};
        if (!error_) {
            error_ = std::move(error);
        }
    }
    changed_.notify_all();
}

void DeviceRelay::run() {
    for (;;) {
        std::uint64_t drain_asked = 0;
        bool want_write = false;
        {
            const std::lock_guard lock{mutex_};
            if (stop_ || error_) {
                return;
            }
            want_write = !outgoing_.empty();
            drain_asked = drain_asked_;
        }
        if (!read_all() || (want_write && !write_some())) {
            return;
        }
        bool eof = false;
        {
            const std::lock_guard lock{mutex_};
            drain_done_ = drain_asked;
            want_write = !outgoing_.empty();
            eof = eof_;
        }
        changed_.notify_all();
        const auto events = static_cast<short>((eof ? 0 : POLLIN) | (want_write ? POLLOUT : 0));
        std::array<pollfd, 2> polled{pollfd{.fd = eof && !want_write ? -1 : socket_.get(), .events = events, .revents = 0},
                                     pollfd{.fd = wake_.get(), .events = POLLIN, .revents = 0}};
        if (::poll(polled.data(), polled.size(), -1) < 0 && errno != EINTR) {
            return fail(errno_error(errno, "poll", "device state stream"));
        }
        if ((polled[1].revents & POLLIN) != 0) {
            std::uint64_t count = 0;
            [[maybe_unused]] const auto got = ::read(wake_.get(), &count, sizeof count);
        }
    }
}

bool DeviceRelay::read_all() {
    std::array<std::byte, read_size> buffer;
    for (;;) {
        const ssize_t count = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (count < 0) {
            if (errno == EAGAIN || errno == EINTR) {
                return true;
            }
            fail(errno_error(errno, "recv", "device state stream"));
            return false;
        }
        if (count == 0) {
            const std::lock_guard lock{mutex_};
            eof_ = true;
            return true;
        }
        const auto size = static_cast<std::size_t>(count);
        if (auto taken = sink_(std::span{buffer}.first(size)); !taken) {
            fail(std::move(taken.error()));
            return false;
        }
        const std::lock_guard lock{mutex_};
        read_ += size;
    }
}

bool DeviceRelay::write_some() {
    for (;;) {
        std::unique_lock lock{mutex_};
        if (outgoing_.empty()) {
            return true;
        }
        // The queue only grows at its end meanwhile; its front stays where it is.
        const auto& front = outgoing_.front();
        const auto rest = std::span{front}.subspan(outgoing_offset_);
        lock.unlock();
        const ssize_t count = ::send(socket_.get(), rest.data(), rest.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count < 0) {
            if (errno == EAGAIN || errno == EINTR) {
                return true;
            }
            fail(errno_error(errno, "send", "device state stream", "the hypervisor closed it: its log says why"));
            return false;
        }
        lock.lock();
        outgoing_offset_ += static_cast<std::size_t>(count);
        if (outgoing_offset_ == outgoing_.front().size()) {
            outgoing_.pop_front();
            outgoing_offset_ = 0;
        }
    }
}

} // namespace pageferry::engine
