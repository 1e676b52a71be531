#include "rdma/registrar.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <string>

namespace pageferry::rdma {

namespace {

// Threads that register what no fault waits for, at once; there is one more for faults.
std::size_t most_with_others() {
    constexpr std::size_t most = 4;
    return std::min<std::size_t>(most, std::max(1U, std::thread::hardware_concurrency()));
}

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

Result<void> Registrar::add(Job job, Urgency urgency) {
    const std::scoped_lock lock{mutex_};
    if (stopped_ || (job.for_peer && stopped_for_peer_)) {
        return std::unexpected{make_error(ErrorCode::state, "register memory", {}, "its memory was revoked")};
    }
    queue(std::move(job), urgency);
    return start_threads();
}

void Registrar::hurry(std::uint32_t number) {
    const std::scoped_lock lock{mutex_};
    for (const Urgency urgency : {Urgency::soon, Urgency::later}) {
        auto& jobs = queues_[static_cast<std::size_t>(urgency)];
        const auto found = std::ranges::find_if(jobs, [&](const Job& job) { return !job.for_peer && job.number == number; });
        if (found != jobs.end()) {
            Job job = std::move(*found);
            jobs.erase(found);
            queue(std::move(job), Urgency::now);
            (void)start_threads(); // there are some
            return;
        }
    }
}

void Registrar::queue(Job job, Urgency urgency) {
    queues_[static_cast<std::size_t>(urgency)].push_back(std::move(job));
    changed_.notify_all(); // one that may not take it now may be the one that is woken
}

std::size_t Registrar::queued() const {
    std::size_t sum = 0;
    for (const auto& jobs : queues_) {
        sum += jobs.size();
    }
    return sum;
}

Result<void> Registrar::start_threads() {
    const std::size_t wanted = std::min(most_with_others() + 1, queued() + busy_);
    if (threads_.size() < wanted) {
        auto thread = start_thread("rdma-reg-" + std::to_string(threads_.size()), [this] { run(); });
        if (!thread && threads_.empty()) {
            return std::unexpected{std::move(thread.error())};
        }
        if (thread) {
            threads_.push_back(std::move(*thread));
        }
    }
    return {};
}

std::deque<Registrar::Job>* Registrar::next() {
    if (auto& faults = queues_[static_cast<std::size_t>(Urgency::now)]; !faults.empty()) {
        return &faults;
    }
    if (busy_with_others_ >= most_with_others()) {
        return nullptr;
    }
    for (const Urgency urgency : {Urgency::soon, Urgency::later}) {
        if (auto& jobs = queues_[static_cast<std::size_t>(urgency)]; !jobs.empty()) {
            return &jobs;
        }
    }
    return nullptr;
}

std::uint64_t Registrar::new_round() {
    const std::scoped_lock lock{mutex_};
    return ++round_;
}

void Registrar::stop_for_peer() {
    std::unique_lock lock{mutex_};
    stopped_for_peer_ = true;
    for (auto& jobs : queues_) {
        std::erase_if(jobs, [](const Job& job) { return job.for_peer; });
    }
    while (busy_for_peer_ > 0) {
        drained_.wait(lock);
    }
}

void Registrar::stop() {
    std::unique_lock lock{mutex_};
    stopped_ = true;
    for (auto& jobs : queues_) {
        jobs.clear();
    }
    changed_.notify_all();
    while (busy_ > 0) {
        drained_.wait(lock);
    }
}

void Registrar::run() {
    std::unique_lock lock{mutex_};
    for (;;) {
        std::deque<Job>* const jobs = next();
        if (jobs == nullptr) {
            if (stopped_) {
                return;
            }
            changed_.wait(lock);
            continue;
        }
        const bool other = jobs != &queues_[static_cast<std::size_t>(Urgency::now)];
        const Job job = std::move(jobs->front());
        jobs->pop_front();
        ++busy_;
        busy_for_peer_ += job.for_peer ? 1 : 0;
        busy_with_others_ += other ? 1 : 0;
        const std::uint64_t round = round_;
        lock.unlock();
        job.done(carry_out(job), round);
        lock.lock();
        --busy_;
        busy_for_peer_ -= job.for_peer ? 1 : 0;
        busy_with_others_ -= other ? 1 : 0;
        drained_.notify_all();
        changed_.notify_all();
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
