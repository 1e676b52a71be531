#include "memory/fault_regions.h"

#include "memory/fault_probe.h"
#include "memory/kernel_abi.h"

#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <utility>

namespace pageferry::memory {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t huge_page = std::uint64_t{2} << 20; // what one page table maps
constexpr std::size_t messages = 32;                        // read at a time
constexpr int most_tries = 10'000;                          // without getting on by a page
constexpr int populate_write = 23; // MADV_POPULATE_WRITE, Linux 5.14: an error where touching would be SIGBUS

// The unit in which stretches are cut and pages mapped by one call, which holds up changes of the mapping and wakes at its end.
std::uint64_t unit_of(const RamBlock& block) {
    return std::max(huge_page, block.info().page_size);
}

Error bad(std::string object, std::string reason) {
    return make_error(ErrorCode::invalid_argument, "watch faults", std::move(object), std::move(reason));
}

Error lacks_minor_faults(bool shmem, bool hugetlb) {
    std::string reason = "the kernel does not give what it says it has";
    if (const auto probe = probe_faults_shmem(); shmem && probe && !probe->minor) {
        reason = probe->minor.error().reason;
    } else if (const auto huge = probe_faults_hugetlbfs(); hugetlb && huge && !huge->minor) {
        reason = huge->minor.error().reason;
    }
    return make_error(ErrorCode::unsupported, "UFFDIO_API", "userfaultfd", std::move(reason));
}

// A userfaultfd is asked once: from then on, and for what it does not know, the kernel answers EINVAL. One that was asked, by an
// earlier process, is in order for poll(); one that was not is in error. It is not lost by asking for too much. What the earlier
// process asked for does not matter to MISSING and MINOR, only to `thread`.
Result<void> ask(const Fd& userfaultfd, bool shmem, bool hugetlb) {
    const std::uint64_t needed =
        (shmem ? std::uint64_t{UFFD_FEATURE_MISSING_SHMEM} | UFFD_FEATURE_MINOR_SHMEM : std::uint64_t{0}) |
        (hugetlb ? std::uint64_t{UFFD_FEATURE_MISSING_HUGETLBFS} | UFFD_FEATURE_MINOR_HUGETLBFS : std::uint64_t{0});
    // Linux 4.14 has the thread's id: every kernel with minor faults does.
    uffdio_api api = {.api = UFFD_API, .features = needed | UFFD_FEATURE_THREAD_ID, .ioctls = 0};
    const int number = ::ioctl(userfaultfd.get(), UFFDIO_API, &api) == 0 ? 0 : errno;
    if (number != 0 && number != EINVAL) {
        return std::unexpected(errno_error(number, "UFFDIO_API", "userfaultfd"));
    }
    if (number == 0 && (api.features & needed) != needed) { // from Linux 6.3 on what is not there is passed over
        return std::unexpected(lacks_minor_faults(shmem, hugetlb));
    }
    pollfd state = {.fd = userfaultfd.get(), .events = POLLIN, .revents = 0};
    if (::poll(&state, 1, 0) < 0) {
        return std::unexpected(errno_error(errno, "poll", "userfaultfd"));
    }
    if ((state.revents & (POLLERR | POLLNVAL)) == 0) {
        return {};
    }
    if ((::fcntl(userfaultfd.get(), F_GETFL) & O_NONBLOCK) == 0) {
        return std::unexpected(bad("userfaultfd", "it is not a non-blocking one"));
    }
    return std::unexpected(lacks_minor_faults(shmem, hugetlb));
}

// Whether the userfaultfd's process is no more. Registering says ENOMEM then; this says so, and changes nothing: no stretch is
// watched for writes.
bool has_ended(int userfaultfd, std::uint64_t start, std::uint64_t end) {
    uffdio_writeprotect nothing = {.range = {.start = start, .len = end - start}, .mode = 0};
    return ::ioctl(userfaultfd, UFFDIO_WRITEPROTECT, &nothing) != 0 && errno == ESRCH;
}

} // namespace

FaultRegions::FaultRegions(std::vector<Fd> userfaultfds, Fd wake, std::span<const RamBlock> blocks)
    : userfaultfds_(std::move(userfaultfds)), wake_(std::move(wake)), blocks_(blocks) {
    for (const Fd& userfaultfd : userfaultfds_) {
        polled_.push_back({.fd = userfaultfd.get(), .events = POLLIN, .revents = 0});
    }
    polled_.push_back({.fd = wake_.get(), .events = POLLIN, .revents = 0});
    divide();
}

Result<FaultRegions> FaultRegions::make(std::vector<Fd> userfaultfds, std::span<const RamBlock> blocks) {
    if (userfaultfds.empty()) {
        return std::unexpected(bad("userfaultfd", "there is none"));
    }
    for (const RamBlock& block : blocks) {
        if (block.info().guest_address == 0) {
            return std::unexpected(bad("RAM block " + block.info().name, "its address in the hypervisor is not known"));
        }
    }
    const bool shmem = std::ranges::any_of(blocks, [](const RamBlock& block) { return !block.is_hugetlb(); });
    const bool hugetlb = std::ranges::any_of(blocks, [](const RamBlock& block) { return block.is_hugetlb(); });
    for (const Fd& userfaultfd : userfaultfds) {
        PAGEFERRY_TRY(ask(userfaultfd, shmem, hugetlb));
    }
    Fd wake{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    if (!wake) {
        return std::unexpected(errno_error(errno, "eventfd", "faults"));
    }
    FaultRegions made{std::move(userfaultfds), std::move(wake), blocks};
    const auto overlap = std::ranges::adjacent_find(
        made.stretches_, [](const Stretch& before, const Stretch& after) { return before.end > after.start; });
    if (overlap != made.stretches_.end()) {
        return std::unexpected(
            bad("RAM block " + blocks[overlap->block].info().name, "another block is at the same addresses of the hypervisor"));
    }
    return made;
}

// The same for the same blocks and number of userfaultfds: a process that takes over has to come to the same stretches.
void FaultRegions::divide() {
    for (std::size_t block = 0; block < blocks_.size(); ++block) {
        const RamBlockInfo& info = blocks_[block].info();
        const std::uint64_t unit = unit_of(blocks_[block]);
        const std::uint64_t count = std::clamp<std::uint64_t>(info.length / unit, 1, userfaultfds_.size());
        std::uint64_t start = info.guest_address;
        for (std::uint64_t i = 1; i <= count; ++i) {
            // Cut where a page table begins. A stretch is at least a unit long before that, so none comes out empty.
            const std::uint64_t end = info.guest_address + (i == count ? info.length : info.length / count * i);
            const std::uint64_t cut = i == count ? end : end / unit * unit;
            stretches_.push_back(
                {.block = block, .userfaultfd = (block + i - 1) % userfaultfds_.size(), .start = start, .end = cut});
            start = cut;
        }
    }
    std::ranges::sort(stretches_, {}, &Stretch::start);
}

const FaultRegions::Stretch* FaultRegions::find(std::uint64_t address) const {
    const auto after = std::ranges::upper_bound(stretches_, address, {}, &Stretch::start);
    if (after == stretches_.begin() || address >= std::prev(after)->end) {
        return nullptr;
    }
    return &*std::prev(after);
}

Error FaultRegions::failed(int number, const char* operation, const Stretch& stretch) const {
    std::string object = "RAM block " + blocks_[stretch.block].info().name;
    if (number == ESRCH ||
        (number == ENOMEM && has_ended(userfaultfds_[stretch.userfaultfd].get(), stretch.start, stretch.end))) {
        Error error = make_error(ErrorCode::closed, operation, std::move(object), "the hypervisor has ended");
        error.native = ESRCH;
        return error;
    }
    if (number == ENOENT) {
        Error error = make_error(ErrorCode::state, operation, std::move(object),
                                 "it is not armed for faults, or the hypervisor has it mapped no more");
        error.native = number;
        return error;
    }
    return errno_error(number, operation, std::move(object),
                       number == EBUSY    ? "another userfaultfd watches this memory; end its user first"
                       : number == EINVAL ? "the address must be a shared mapping of the hypervisor"
                                          : "");
}

Result<void> FaultRegions::arm(std::size_t block) {
    if (block >= blocks_.size()) {
        return std::unexpected(bad("RAM block " + std::to_string(block), "there is no such block"));
    }
    for (Stretch& stretch : stretches_) {
        if (stretch.block != block) {
            continue;
        }
        uffdio_register range = {.range = {.start = stretch.start, .len = stretch.end - stretch.start},
                                 .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR,
                                 .ioctls = 0};
        if (::ioctl(userfaultfds_[stretch.userfaultfd].get(), UFFDIO_REGISTER, &range) != 0) {
            const int number = errno;
            return std::unexpected(failed(number, "UFFDIO_REGISTER", stretch));
        }
        stretch.armed = true;
        if ((range.ioctls >> _UFFDIO_CONTINUE & 1) == 0) {
            return std::unexpected(make_error(ErrorCode::unsupported, "UFFDIO_REGISTER",
                                              "RAM block " + blocks_[block].info().name,
                                              "the kernel cannot map a page of such memory after a fault"));
        }
    }
    return {};
}

Result<void> FaultRegions::disarm() {
    Result<void> result;
    for (Stretch& stretch : stretches_) {
        if (!std::exchange(stretch.armed, false)) {
            continue;
        }
        uffdio_range range = {.start = stretch.start, .len = stretch.end - stretch.start};
        if (::ioctl(userfaultfds_[stretch.userfaultfd].get(), UFFDIO_UNREGISTER, &range) != 0) {
            const int number = errno;
            if (result) {
                result = std::unexpected(failed(number, "UFFDIO_UNREGISTER", stretch));
            }
        }
    }
    return result;
}

void FaultRegions::interrupt() {
    // It fails only when the counter is full, and then it is heard all the same.
    ::eventfd_write(wake_.get(), 1);
}

// Whether there may be faults to read; not: the time is over, or interrupt() was called.
Result<bool> FaultRegions::wait_for_faults(Clock::time_point end) {
    for (;;) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
        const int ready = ::poll(polled_.data(), polled_.size(), static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000)));
        if (ready < 0 && errno != EINTR) {
            return std::unexpected(errno_error(errno, "poll", "userfaultfd"));
        }
        if (ready > 0) {
            if (polled_.back().revents != 0) {
                eventfd_t ignored = 0;
                ::eventfd_read(wake_.get(), &ignored);
                return ready > 1;
            }
            return true;
        }
        if (left <= 0) {
            return false;
        }
    }
}

Result<std::size_t> FaultRegions::read_some(int userfaultfd, std::span<Fault> faults) const {
    std::array<uffd_msg, messages> read; // NOLINT(cppcoreguidelines-pro-type-member-init): the kernel fills what is used
    const ssize_t got = ::read(userfaultfd, read.data(), std::min(read.size(), faults.size()) * sizeof(uffd_msg));
    if (got < 0) {
        const int number = errno;
        if (number == EAGAIN || number == EINTR) { // the waiter was called away, or it is told next time
            return 0;
        }
        return std::unexpected(errno_error(number, "read", "userfaultfd"));
    }
    std::size_t count = 0;
    for (const uffd_msg& message : std::span{read}.first(static_cast<std::size_t>(got) / sizeof(uffd_msg))) {
        if (message.event != UFFD_EVENT_PAGEFAULT) {
            // Not asked for by us. Having read it lets go whoever caused it; a child's userfaultfd comes with it.
            if (message.event == UFFD_EVENT_FORK) {
                const Fd closed{static_cast<int>(message.arg.fork.ufd)};
            }
            continue;
        }
        const auto& fault = message.arg.pagefault;
        if (const Stretch* const stretch = find(fault.address); stretch != nullptr) {
            const RamBlockInfo& info = blocks_[stretch->block].info();
            faults[count++] = {.block = stretch->block,
                               .page = (fault.address - info.guest_address) / info.page_size,
                               .thread = fault.feat.ptid,
                               .write = (fault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0};
        }
    }
    return count;
}

Result<std::size_t> FaultRegions::next(std::span<Fault> faults, std::chrono::milliseconds wait) {
    const auto end = Clock::now() + wait;
    std::size_t count = 0;
    while (count == 0 && !faults.empty()) {
        const auto ready = wait_for_faults(end);
        if (!ready) {
            return std::unexpected(ready.error());
        }
        if (!*ready) {
            break;
        }
        for (std::size_t i = 0; i < userfaultfds_.size() && count < faults.size(); ++i) {
            const pollfd& polled = polled_[(turn_ + i) % userfaultfds_.size()];
            if (polled.revents == 0) {
                continue;
            }
            auto got = read_some(polled.fd, faults.subspan(count));
            if (!got && count == 0) {
                return got;
            }
            count += got.value_or(0); // an error comes again with the next call
        }
        turn_ = (turn_ + 1) % userfaultfds_.size();
    }
    return count;
}

Result<void> FaultRegions::map(std::size_t block, PageRun run) {
    if (block >= blocks_.size() || run.first > blocks_[block].pages() || run.count > blocks_[block].pages() - run.first) {
        return std::unexpected(bad("pages", "there are no such pages"));
    }
    const RamBlockInfo& info = blocks_[block].info();
    const std::uint64_t end = info.guest_address + (run.first + run.count) * info.page_size;
    for (std::uint64_t address = info.guest_address + run.first * info.page_size; address < end;) {
        const Stretch& stretch = *find(address);
        const std::uint64_t stop = std::min(end, stretch.end);
        PAGEFERRY_TRY(map_within(stretch, address, stop));
        address = stop;
    }
    return {};
}

Result<void> FaultRegions::map_within(const Stretch& stretch, std::uint64_t address, std::uint64_t end) const {
    const RamBlock& block = blocks_[stretch.block];
    const std::uint64_t page = block.info().page_size;
    const std::uint64_t most = unit_of(block);
    std::uint64_t at_once = most;
    std::uint64_t fill = page; // bytes to fill when there is a hole; more with each, for they come in runs
    for (int tries = 0; address < end;) {
        const std::uint64_t length = std::min(at_once, end - address);
        uffdio_continue map = {.range = {.start = address, .len = length}, .mode = 0, .mapped = 0};
        std::uint64_t done = length;
        if (::ioctl(userfaultfds_[stretch.userfaultfd].get(), UFFDIO_CONTINUE, &map) == 0) {
            at_once = most;
            fill = page;
        } else if (const int number = errno; number == EEXIST) {
            done = page; // mapped already: whoever mapped it wakes the waiters
        } else if (number == EAGAIN && map.mapped > 0) {
            done = static_cast<std::uint64_t>(map.mapped); // what stopped it is told by the next call
        } else if (number == ENOENT && length > page) {
            done = 0;
            at_once = std::max(length / 2 / page * page, page); // the hypervisor's mapping may be in several pieces
        } else if (number == EFAULT && tries < most_tries) {
            done = 0;
            ++tries; // a balloon may punch it again at once
            const std::uint64_t hole = std::min(fill, end - address);
            std::byte* const alias = block.alias() + (address - block.info().guest_address);
            if (::madvise(alias, hole, populate_write) != 0) {
                const int filling = errno;
                if (filling != EAGAIN && filling != EINTR) {
                    Error error = errno_error(filling, "fill a hole", "RAM block " + block.info().name,
                                              block.is_hugetlb() ? "reserve more huge pages (vm.nr_hugepages)" : "");
                    error.code = ErrorCode::resources;
                    return std::unexpected(std::move(error));
                }
            }
            fill = std::min(2 * fill, most);
        } else if ((number == EAGAIN || number == EINTR) && tries < most_tries) {
            done = 0;
            ++tries; // the mapping is being changed under us
            ::sched_yield();
        } else {
            return std::unexpected(failed(number, "UFFDIO_CONTINUE", stretch));
        }
        if (done != 0) {
            address += done;
            tries = 0;
        }
    }
    return {};
}

} // namespace pageferry::memory
