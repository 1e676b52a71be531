#include "hypervisor/mover/discards.h"

#include "hypervisor/qemu/agent/agent_protocol.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstddef>
#include <new>

namespace pageferry::hypervisor {

static_assert(sizeof(engine::DiscardCounters) == sizeof(pf_agent_discards));
static_assert(offsetof(pf_agent_discards, begun) == 0 && offsetof(pf_agent_discards, ended) == sizeof(std::uint64_t));

void UnmapDiscards::operator()(const engine::DiscardCounters* counters) const {
    ::munmap(const_cast<engine::DiscardCounters*>(counters), sizeof *counters);
}

Result<MappedDiscards> map_discards(const Fd& memory) {
    struct stat about{};
    const int seals = ::fcntl(memory.get(), F_GET_SEALS);
    if (seals < 0 || ::fstat(memory.get(), &about) != 0) {
        return std::unexpected(errno_error(errno, "look at", "the agent's counters"));
    }
    if ((seals & F_SEAL_SHRINK) == 0 || static_cast<std::size_t>(about.st_size) < sizeof(engine::DiscardCounters)) {
        return std::unexpected(
            make_error(ErrorCode::protocol, "map", "the agent's counters", "they are not sealed, or too short"));
    }
    void* const mapped = ::mmap(nullptr, sizeof(engine::DiscardCounters), PROT_READ, MAP_SHARED, memory.get(), 0);
    if (mapped == MAP_FAILED) {
        return std::unexpected(errno_error(errno, "mmap", "the agent's counters"));
    }
    // The agent writes them by the compiler's atomic operations on plain integers, which are what a lock-free atomic is made of.
    return MappedDiscards{std::launder(static_cast<const engine::DiscardCounters*>(mapped))};
}

} // namespace pageferry::hypervisor
