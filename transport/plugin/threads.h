// What the threads of this transport are made of: a condition variable on the monotonic clock, and a named thread.
#pragma once

#include "base/error.h"
#include "transport/plugin/deadline.h"

#include <pthread.h>

#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace pageferry::plugin {

// A condition variable that waits until a monotonic moment by pthread_cond_timedwait. (std::condition_variable would use
// pthread_cond_clockwait, which GCC 12's ThreadSanitizer does not see, and then reports races that are none.)
class Condition {
public:
    Condition();
    ~Condition();
    Condition(const Condition&) = delete;
    Condition& operator=(const Condition&) = delete;

    void notify_one();
    void notify_all();
    // Until notified, or spuriously: the caller looks at its state again.
    void wait(std::unique_lock<std::mutex>& lock);
    // false: the deadline has passed.
    bool wait_until(std::unique_lock<std::mutex>& lock, const Deadline& deadline);

private:
    pthread_cond_t condition_;
};

// A running thread of that name (at most 15 characters) with all signals blocked: they are the host program's.
// resources: the system has no thread left.
Result<std::thread> start_thread(const std::string& name, std::function<void()> body);

} // namespace pageferry::plugin
