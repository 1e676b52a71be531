#include "base/scheduling.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace pageferry {

namespace {

// The kernel's struct sched_attr as of its first version; libc's headers may lack it.
struct Attributes {
    std::uint32_t size;
    std::uint32_t policy;
    std::uint64_t flags;
    std::int32_t nice;
    std::uint32_t priority;
    std::uint64_t runtime; // ns; of SCHED_OTHER: how long a turn is
    std::uint64_t deadline;
    std::uint64_t period;
};
static_assert(sizeof(Attributes) == 48);

constexpr std::uint64_t short_turn = 100'000; // ns, the shortest there is

} // namespace

void ask_for_short_turns() {
    Attributes attributes{};
    if (::syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0U) != 0 || attributes.policy != SCHED_OTHER) {
        return; // somebody has chosen for it
    }
    attributes.size = sizeof attributes;
    attributes.flags = 0;
    attributes.runtime = short_turn;
    (void)::syscall(SYS_sched_setattr, 0, &attributes, 0U); // older kernels pay no attention to it
}

} // namespace pageferry
