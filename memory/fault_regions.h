// The hypervisor's page faults on guest RAM that is not there yet: userfaultfds registered on the guest mapping, faults read from
// them, and pages mapped.
//
// A block's guest mapping is divided into as many stretches as there are userfaultfds, for one does not scale past about eight
// faulting threads. They are registered for MISSING and MINOR: a page of which the file has nothing yet is missing, one that was
// filled in through the alias (or whose neighbour's huge page was) is minor; neither says that the page was received, which is
// for the caller's received bitmap to say. Needs Linux 5.14 (hugetlbfs: 5.13); see fault_probe.h.
//
// The userfaultfds live as long as anybody holds them: a process that takes over from one that died makes this again from the
// same descriptors in the same order, for the same blocks, and arms the same blocks again. Faults that the dead one had read are
// not told again: whoever waits for them is woken when the page is mapped. Threads: arm() and disarm() by one, with no other call
// under way; next() by one; map() by any number at once.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "memory/bitmap.h"
#include "memory/ram_block.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <poll.h>
#include <span>
#include <vector>

namespace pageferry::memory {

struct Fault {
    std::size_t block = 0;
    std::uint64_t page = 0;   // number within the block, in its page size
    std::uint32_t thread = 0; // that waits, as its own pid namespace numbers it; 0: the kernel does not say
    bool write = false;
    bool operator==(const Fault&) const = default;
};

class FaultRegions {
public:
    // userfaultfds of the hypervisor's process, at least one, non-blocking, not asked for any feature yet, or asked by an earlier
    // process of ours. blocks outlive this, and have guest_address and page_size. unsupported: the kernel lacks minor faults for
    // the kind of memory; else the ioctl's error.
    static Result<FaultRegions> make(std::vector<Fd> userfaultfds, std::span<const RamBlock> blocks);
    FaultRegions(FaultRegions&&) noexcept = default;
    FaultRegions& operator=(FaultRegions&&) noexcept = default;
    ~FaultRegions() = default; // what is armed stays so while anybody holds the userfaultfds

    // From here on every touch of a page of the block that is not mapped in the hypervisor waits for map(). What is mapped has to
    // be dropped by the hypervisor itself (agent: zap) afterwards. Again on an armed block, also one that an earlier process has
    // armed: nothing changes. On an error what was armed of the block stays so until disarm(): an earlier process's waiters must
    // not go on with pages that never came.
    Result<void> arm(std::size_t block);
    // Ends it for all blocks armed by this: whoever waits goes on, with what the file has. All of them are tried; the first
    // error.
    Result<void> disarm();

    // Waits until there are faults, at most `wait`, and reads as many as fit. Each is told once for each thread that waits, as
    // long as it was not read by an earlier process; once more if a signal called the thread away and it came back. 0: none in
    // time, or interrupt() was called.
    Result<std::size_t> next(std::span<Fault> faults, std::chrono::milliseconds wait);
    void interrupt(); // any thread: ends the present next(), or the one to come

    // Maps pages that were received for the hypervisor and wakes who waits for them. Pages that are mapped already are passed
    // over; of pages that the file does not have any more (a hole was punched), and of those it never had, it gets zeros.
    // closed: the hypervisor has ended; state: the block is not armed, or the hypervisor has it mapped no more; resources: no
    // memory for such zeros.
    Result<void> map(std::size_t block, PageRun run);

private:
    struct Stretch { // of a block's guest mapping, on one userfaultfd
        std::size_t block;
        std::size_t userfaultfd;
        std::uint64_t start, end; // guest addresses
        bool armed = false;
    };
    FaultRegions(std::vector<Fd> userfaultfds, Fd wake, std::span<const RamBlock> blocks);
    void divide();
    [[nodiscard]] const Stretch* find(std::uint64_t address) const;
    [[nodiscard]] Result<std::size_t> read_some(int userfaultfd, std::span<Fault> faults) const;
    Result<bool> wait_for_faults(std::chrono::steady_clock::time_point end);
    [[nodiscard]] Result<void> map_within(const Stretch& stretch, std::uint64_t address, std::uint64_t end) const;
    [[nodiscard]] Error failed(int number, const char* operation, const Stretch& stretch) const;

    std::vector<Fd> userfaultfds_;
    Fd wake_; // eventfd
    std::span<const RamBlock> blocks_;
    std::vector<Stretch> stretches_; // of all blocks, sorted by address
    std::vector<pollfd> polled_;     // the userfaultfds, then wake_
    std::size_t turn_ = 0;           // the userfaultfd that next() reads first
};

} // namespace pageferry::memory
