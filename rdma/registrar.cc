#include "rdma/registrar.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <string>

namespace pageferry::rdma {

namespace {

constexpr std::size_t most_threads = 4;

// Older kernels (before 5.14) do not know it: then pinning populates, one page after the other.
void populate(const Registrar::Job& job) {
    const bool written = (job.access & IBV_ACCESS_LOCAL_WRITE) != 0;
    (void)::madvise(job.address, job.length, written ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
}

} // namespace

Registrar::~Registrar() {
    stop();
    for (std::thread& thread : threads_) {
        thread.join();
    }
}

Result<void> Registrar::add(Job job, bool soon) {
    const std::scoped_lock lock{mutex_};
    if (stopped_ || (job.for_peer && stopped_for_peer_)) {
        return std::unexpected{make_error(ErrorCode::state, "register memory", {}, "its memory was revoked")};
    }
    (soon ? soon_ : later_).push_back(std::move(job));
    const std::size_t wanted = std::min<std::size_t>(
        {most_threads, std::max(1U, std::thread::hardware_concurrency()), soon_.size() + later_.size() + busy_});
    if (threads_.size() < wanted) {
        auto thread = start_thread("rdma-reg-" + std::to_string(threads_.size()), [this] { run(); });
        if (!thread && threads_.empty()) {
            return std::unexpected{std::move(thread.error())};
        }
        if (thread) {
            threads_.push_back(std::move(*thread));
        }
    }
    changed_.notify_one();
    return {};
}

std::uint64_t Registrar::new_round() {
    const std::scoped_lock lock{mutex_};
    return ++round_;
}

void Registrar::stop_for_peer() {
    std::unique_lock lock{mutex_};
    stopped_for_peer_ = true;
    std::erase_if(soon_, [](const Job& job) { return job.for_peer; });
    std::erase_if(later_, [](const Job& job) { return job.for_peer; });
    while (busy_for_peer_ > 0) {
        drained_.wait(lock);
    }
}

void Registrar::stop() {
    std::unique_lock lock{mutex_};
    stopped_ = true;
    soon_.clear();
    later_.clear();
    changed_.notify_all();
    while (busy_ > 0) {
        drained_.wait(lock);
    }
}

void Registrar::run() {
    std::unique_lock lock{mutex_};
    for (;;) {
        auto& queue = soon_.empty() ? later_ : soon_;
        if (queue.empty()) {
            if (stopped_) {
                return;
            }
            changed_.wait(lock);
            continue;
        }
        const Job job = std::move(queue.front());
        queue.pop_front();
        ++busy_;
        busy_for_peer_ += job.for_peer ? 1 : 0;
        const std::uint64_t round = round_;
        lock.unlock();
        job.done(carry_out(job), round);
        lock.lock();
        --busy_;
        busy_for_peer_ -= job.for_peer ? 1 : 0;
        drained_.notify_all();
    }
}

Result<MemoryRegion> Registrar::carry_out(const Job& job) const {
    populate(job);
    // Relaxed ordering is an optional right: a device or kernel without it leaves it out.
    MemoryRegion region{ibv_reg_mr(pd_, job.address, job.length, job.access | IBV_ACCESS_RELAXED_ORDERING)};
    if (!region) {
        const int error = errno;
        return std::unexpected{
            errno_error(error, "register memory", std::to_string(job.length) + " bytes",
                        error == ENOMEM ? "raise the memlock limit (ulimit -l), or free memory" : "look into the kernel log")};
    }
    return region;
}

} // namespace pageferry::rdma
