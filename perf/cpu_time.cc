#include "perf/cpu_time.h"

#include <sys/resource.h>

namespace pageferry::perf {

double cpu_seconds() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage); // cannot fail with these arguments
    const auto seconds = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
    };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

} // namespace pageferry::perf
