// The other end of the agent that runs inside QEMU (agent/agent_protocol.h): what the monitor process asks of it.
//
// Threads: one at a time. Each call blocks until the agent has answered or the time given at construction is over.
// Every call fails with: closed (QEMU or the agent is gone), timed_out (QEMU is stopped, or the agent never loaded), protocol
// or version (another build's agent), io. After timed_out the client can go on being used: late answers are dropped.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace pageferry::hypervisor {

// A descriptor of QEMU's address space, or why the agent has none.
struct AgentHandle {
    Fd fd;
    int error = 0; // errno where fd is empty
};

struct AgentHandles {
    AgentHandle tracking;            // userfaultfd, UFFDIO_API not done by the agent
    std::vector<AgentHandle> faults; // userfaultfds, likewise; PF_AGENT_FAULT_HANDLES of them
    AgentHandle pagemap;             // /proc/PID/pagemap
    AgentHandle clear_refs;          // /proc/PID/clear_refs
    AgentHandle discards;            // memory with a pf_agent_discards (agent/agent_protocol.h), for reading
};

// A shared mapping in QEMU: guest RAM, and whatever else QEMU shares (without fd where it is of no regular file: a device).
struct AgentMapping {
    std::uint64_t address = 0;     // in QEMU
    std::uint64_t length = 0;      // bytes
    std::uint64_t file_offset = 0; // bytes
    std::uint64_t device = 0;      // st_dev of the file
    std::uint64_t inode = 0;       // st_ino of the file
    std::uint64_t page_size = 0;   // bytes; 0 where fd is empty
    std::uint64_t file_system = 0; // statfs f_type (TMPFS_MAGIC, HUGETLBFS_MAGIC); 0 where fd is empty
    std::string path;              // as in /proc/PID/maps: "/dev/shm/vm", "/memfd:pageferry-pc.ram (deleted)"
    Fd fd;                         // of the file, read-write where QEMU has one so; empty where it could not be had
    int error = 0;                 // errno where fd is empty
};

class AgentClient {
public:
    explicit AgentClient(Fd socket, std::chrono::milliseconds timeout = std::chrono::seconds{5});

    // All handles made when QEMU started. The same open files each time (a userfaultfd takes UFFDIO_API once).
    Result<AgentHandles> handles();
    // The present mappings, sorted by address.
    Result<std::vector<AgentMapping>> mappings();
    // Drops the page table entries of a range inside one shared mapping; the pages stay in the file. The range is aligned to the
    // mapping's pages. invalid_argument, with nothing done, where the range is not within one.
    Result<void> zap(std::uint64_t address, std::uint64_t length);
    // One more userfaultfd without UFFDIO_API. Can fail where handles() did not: QEMU may have given up privileges since.
    Result<Fd> new_userfaultfd();
    // The agent closes its copies of the fault userfaultfds, so that the caller's are the last: at the end of a postcopy.
    Result<void> release_faults();

    // Disks that QEMU has open with O_DIRECT go through the page cache until make_disks_direct(): the kernel pins guest RAM for
    // direct I/O and the disk writes it without a page fault, past any tracking. The paths of those that were direct until now.
    // On failure some may have been switched.
    Result<std::vector<std::string>> make_disks_buffered();
    Result<void> make_disks_direct();

    [[nodiscard]] int socket() const { return socket_.get(); }

private:
    struct Item; // one packet of an answer, and its descriptor
    Result<std::vector<Item>> ask(std::uint16_t type, std::uint64_t address, std::uint64_t length, const char* operation);
    Result<bool> receive(Item& item, std::chrono::steady_clock::time_point deadline, const char* operation);

    Fd socket_;
    std::chrono::milliseconds timeout_;
    std::uint64_t sequence_ = 0;
};

} // namespace pageferry::hypervisor
