#include "rdma/reaper.h"

#include "transport/plugin/deadline.h"
#include "transport/plugin/threads.h"

#include <mutex>

namespace pageferry::rdma {

namespace {

constexpr std::int64_t moment_ms = 300; // far more than it takes where nothing blocks

struct Progress {
    std::mutex mutex;
    Condition changed;
    bool done = false;
};

} // namespace

void Retire::operator()(LaneSet* set) const {
    const auto progress = std::make_shared<Progress>();
    auto thread = start_thread("rdma-reaper", [set, progress] {
        delete set; // NOLINT(cppcoreguidelines-owning-memory): a deleter
        const std::scoped_lock lock{progress->mutex};
        progress->done = true;
        progress->changed.notify_all();
    });
    if (!thread) {  // no thread left in the system
        delete set; // NOLINT(cppcoreguidelines-owning-memory)
        return;
    }
    const Deadline deadline = Deadline::in(moment_ms);
    std::unique_lock lock{progress->mutex};
    while (!progress->done && progress->changed.wait_until(lock, deadline)) {
    }
    const bool done = progress->done;
    lock.unlock();
    if (done) {
        thread->join();
    } else {
        thread->detach();
    }
}

} // namespace pageferry::rdma
