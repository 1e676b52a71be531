// A child process in the role of the hypervisor: it maps the same files, makes the userfaultfds, hands them over with its
// pagemap, and writes and touches pages when told to.
//
// Threads: made and unmade by one; its functions by any. The child dies with this object or with the test.
#pragma once

#include "base/fd.h"
#include "memory/dirty_tracker.h"
#include "memory/ram_block.h"

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <ostream>
#include <string>
#include <sys/types.h>
#include <vector>

namespace pageferry::memory::testing {

struct BlockSpec {
    std::string name;
    std::uint64_t pages = 0;
    std::uint64_t file_offset_pages = 0;
};

// What RAM is made of.
struct PageKind {
    const char* name;
    std::uint64_t size;    // bytes: 4096, or 2 MiB on hugetlbfs
    bool transparent_huge; // tmpfs that gives 2 MiB at a time where it can
};
inline void PrintTo(const PageKind& kind, std::ostream* out) {
    *out << kind.name;
}
inline constexpr PageKind small_pages{.name = "Small", .size = 4096, .transparent_huge = false};
inline constexpr PageKind transparent_huge_pages{.name = "TransparentHuge", .size = 4096, .transparent_huge = true};
inline constexpr PageKind huge_pages{.name = "Huge", .size = std::uint64_t{2} << 20U, .transparent_huge = false};

class HypervisorProcess {
public:
    // Files of `page_size` pages (4096: tmpfs; more: hugetlbfs), one for each block, mapped on both sides.
    HypervisorProcess(std::uint64_t page_size, const std::vector<BlockSpec>& specs);
    // available(kind) must hold. faults: how many userfaultfds it makes for page faults, besides that for tracking.
    HypervisorProcess(const PageKind& kind, const std::vector<BlockSpec>& specs, std::size_t faults = 0);
    HypervisorProcess(const HypervisorProcess&) = delete;
    HypervisorProcess& operator=(const HypervisorProcess&) = delete;
    ~HypervisorProcess();

    [[nodiscard]] std::vector<const RamBlock*> blocks() const;
    [[nodiscard]] const RamBlock& block(std::size_t index) const { return blocks_[index]; }
    [[nodiscard]] TrackingHandles handles() const; // duplicates
    [[nodiscard]] std::vector<Fd> faults() const;  // duplicates
    [[nodiscard]] pid_t pid() const { return pid_; }

    // Each waits until the child has done it.
    void write(std::size_t block, const std::vector<std::uint64_t>& pages); // one byte in each, never the same value twice
    void read(std::size_t block, std::uint64_t page);
    void drop(std::size_t block, std::uint64_t first, std::uint64_t count);  // MADV_DONTNEED
    void punch(std::size_t block, std::uint64_t first, std::uint64_t count); // MADV_REMOVE
    // Makes the child do UFFDIO_API with these features, as another user of the descriptor would. The errno, 0 for success.
    int handshake(std::uint64_t features);
    // The child writes counters into random pages of all blocks until stop_writing(), which gives how many it wrote.
    void start_writing(std::uint64_t seed);
    std::uint64_t stop_writing();

    // A thread of the child reads the first word of a page, and may have to wait for it. Nobody waits for the thread here.
    std::size_t touch(std::size_t block, std::uint64_t page);                     // its number
    [[nodiscard]] std::optional<std::uint64_t> touched(std::size_t number) const; // the word; empty: it still waits
    // Threads of the child go once to every page of all blocks, each page to one of them, in random order: they read the first
    // word and write the second.
    struct Visit {
        std::uint64_t read = 0, wrote = 0; // wrote is never 0
    };
    void start_visiting(std::size_t threads);
    [[nodiscard]] bool visited_all() const;
    [[nodiscard]] std::optional<Visit> visit(std::size_t block, std::uint64_t page) const; // empty: not yet

    void kill();

private:
    enum class Op : std::uint32_t { write, read, drop, punch, handshake, run, stop, touch, visit };
    struct Command {
        Op op = Op::stop;
        std::uint32_t block = 0;
        std::uint64_t first = 0;
        std::uint64_t count = 0;
    };
    struct Mapping {
        volatile std::byte* address = nullptr;
        std::uint64_t pages = 0;
    };
    struct Told; // memory shared with the child, where its threads tell what they have seen
    struct Unmap {
        void operator()(Told* told) const;
    };
    [[noreturn]] void child(int socket, std::size_t faults);
    std::uint64_t obey(const Command& command, const std::vector<Mapping>& mappings, int userfaultfd, int socket);
    void start_visitors(const std::vector<Mapping>& mappings, std::size_t threads);
    std::uint64_t ask(const Command& command);
    std::uint64_t ask_locked(const Command& command);
    void receive_handles(std::size_t faults);
    [[nodiscard]] std::size_t number_of(std::size_t block, std::uint64_t page) const; // over all blocks

    std::uint64_t page_size_;
    std::vector<RamBlock> blocks_;
    std::mutex mutex_; // one command at a time
    Fd socket_;
    TrackingHandles handles_;
    std::vector<Fd> faults_;
    std::unique_ptr<Told, Unmap> told_;
    std::size_t touches_ = 0;
    pid_t pid_ = -1;
};

// Reserves huge pages of 2 MiB for one test, and puts the kernel's setting back; one test at a time on a machine.
class HugePages {
public:
    explicit HugePages(std::uint64_t pages);
    HugePages(const HugePages&) = delete;
    HugePages& operator=(const HugePages&) = delete;
    ~HugePages();
    [[nodiscard]] bool available() const { return available_; }

private:
    Fd setting_;
    std::string before_;
    bool available_ = false;
};

// This host has them, and lets us make them. Hugetlbfs: see HugePages.
bool available(const PageKind& kind);

// An unnamed file on tmpfs (4096) or hugetlbfs (2 MiB).
Fd make_ram_file(std::uint64_t page_size, std::uint64_t length);

} // namespace pageferry::memory::testing
