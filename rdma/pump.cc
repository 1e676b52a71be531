#include "rdma/pump.h"

#include "transport/plugin/events.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <array>
#include <cerrno>
#include <thread>

namespace pageferry::rdma {

namespace {

constexpr int looks_between_clocks = 16;
constexpr int most_turns_given = 1000;

void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

} // namespace

ibv_wc unreadable_queue() {
    ibv_wc none{};
    none.status = IBV_WC_FATAL_ERR;
    return none;
}

Result<Fd> make_kick() {
    return make_event();
}

Result<void> set_nonblocking(int fd) {
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
        return std::unexpected{errno_error(errno, "fcntl", "O_NONBLOCK")};
    }
    return {};
}

std::size_t Pump::drain() {
    std::array<ibv_wc, 32> completions; // NOLINT(cppcoreguidelines-pro-type-member-init): filled by the device
    std::size_t total = 0;
    for (;;) {
        const int count = ibv_poll_cq(queue_, static_cast<int>(completions.size()), completions.data());
        for (int i = 0; i < count; ++i) {
            handle_(completions[static_cast<std::size_t>(i)]);
        }
        if (count < 0) {
            handle_(unreadable_queue());
        }
        if (count <= 0) {
            break;
        }
        total += static_cast<std::size_t>(count);
        if (wanted_.load(std::memory_order_relaxed) > 0) {
            break;
        }
    }
    if (total > 0) {
        busy_until_ = Clock::now() + busy_;
        changed_.notify_all();
    }
    return total;
}

void Pump::wake() const {
    raise_event(kick_.get());
}

void Pump::notify() {
    changed_.notify_all();
    if (sleeping_) {
        raise_event(kick_.get());
    }
}

void Pump::wait(std::unique_lock<std::mutex>& lock, const Deadline& deadline) {
    if (Clock::now() < busy_until_) {
        for (int looks = 0; looks < looks_between_clocks && drain() == 0; ++looks) { // a look is cheaper than the time
            lock.unlock();
            pause_briefly();
            // A mutex goes to whoever is awake, and that would always be this thread.
            for (int turns = 0; turns < most_turns_given && wanted_.load(std::memory_order_relaxed) > 0; ++turns) {
                std::this_thread::yield();
            }
            lock.lock();
        }
        return;
    }
    if (sleeping_) {
        (void)changed_.wait_until(lock, deadline);
        return;
    }
    // What comes after this is notified; what came before it is seen by one more look.
    if (ibv_req_notify_cq(queue_, 0) != 0 || drain() > 0) {
        return;
    }
    sleeping_ = true;
    lock.unlock();
    sleep(deadline);
    lock.lock();
    sleeping_ = false;
    changed_.notify_all(); // another one sleeps, if this one leaves
}

void Pump::sleep(const Deadline& deadline) const {
    std::array<pollfd, 3> watched{pollfd{.fd = channel_->fd, .events = POLLIN, .revents = 0},
                                  pollfd{.fd = kick_.get(), .events = POLLIN, .revents = 0},
                                  pollfd{.fd = ending_.event(), .events = POLLIN, .revents = 0}};
    (void)::poll(watched.data(), watched.size(), deadline.poll_ms());
    if (watched[0].revents != 0) {
        ibv_cq* queue = nullptr;
        void* context = nullptr;
        if (ibv_get_cq_event(channel_, &queue, &context) == 0) {
            ibv_ack_cq_events(queue, 1);
        }
    }
    if (watched[1].revents != 0) {
        eventfd_t taken = 0;
        (void)::eventfd_read(kick_.get(), &taken);
    }
}

} // namespace pageferry::rdma
