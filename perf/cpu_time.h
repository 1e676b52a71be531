// CPU seconds of this process, user and system, all threads.
//
// Any thread.
#pragma once

namespace pageferry::perf {

double cpu_seconds();

} // namespace pageferry::perf
