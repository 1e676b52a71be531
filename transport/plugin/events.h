// Waiting for a descriptor, and event descriptors that end such a wait.
//
// Threads: any; no state.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "transport/plugin/deadline.h"

namespace pageferry::plugin {

enum class Wait { ready, timed_out, cancelled };

// Until the socket has one of the events of poll(2) (or an error, or the peer has gone), the deadline passes, or the event
// descriptor cancel is readable (-1: there is none); cancel goes first.
Wait wait_for(int socket, short events, const Deadline& deadline, int cancel);

// An eventfd that stays readable once it was raised. resources: no descriptor left.
Result<Fd> make_event();
void raise_event(int event);

} // namespace pageferry::plugin
