#include "transport/plugin/threads.h"

#include <csignal>
#include <system_error>

namespace pageferry::plugin {

Condition::Condition() {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&condition_, &attributes);
    pthread_condattr_destroy(&attributes);
}

Condition::~Condition() {
    pthread_cond_destroy(&condition_);
}

void Condition::notify_one() {
    pthread_cond_signal(&condition_);
}

void Condition::notify_all() {
    pthread_cond_broadcast(&condition_);
}

void Condition::wait(std::unique_lock<std::mutex>& lock) {
    pthread_cond_wait(&condition_, lock.mutex()->native_handle());
}

bool Condition::wait_until(std::unique_lock<std::mutex>& lock, const Deadline& deadline) {
    const auto since_start = deadline.at().time_since_epoch();
    const auto seconds = std::chrono::floor<std::chrono::seconds>(since_start);
    const auto rest = std::chrono::duration_cast<std::chrono::nanoseconds>(since_start - seconds);
    const timespec moment{.tv_sec = static_cast<time_t>(seconds.count()), .tv_nsec = static_cast<long>(rest.count())};
    return pthread_cond_timedwait(&condition_, lock.mutex()->native_handle(), &moment) == 0;
}

Result<std::thread> start_thread(const std::string& name, std::function<void()> body) {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); // a new thread inherits the mask
    Result<std::thread> result;
    try {
        result = std::thread{[name, run = std::move(body)] {
            pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
            run();
        }};
    } catch (const std::system_error& error) {
        result = std::unexpected{make_error(ErrorCode::resources, "start thread", name, error.what(),
                                            "raise the limit on processes (ulimit -u, or the cgroup's pids.max)")};
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return result;
}

} // namespace pageferry::plugin
