// How the kernel schedules a thread that others wait for.
//
// Threads: any, about itself.
#pragma once

namespace pageferry {

// The calling thread asks for short turns on a processor, and so gets one sooner when it is woken, before threads that run for
// long (Linux 6.12; needs no privilege). It gets no more of the processor's time by it. Where the kernel has no such thing
// nothing changes.
void ask_for_short_turns();

} // namespace pageferry
