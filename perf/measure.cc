#include "perf/measure.h"

#include "perf/cpu_time.h"
#include "perf/push_protocol.h"

#include <nlohmann/json.hpp>

namespace pageferry::perf {

Result<PushRun> measure(transport::Connection& connection, std::chrono::milliseconds timeout,
                        const std::function<Result<void>()>& work) {
    if (auto started = ask(connection, {{"op", "start"}}, "started", timeout); !started) {
        return std::unexpected(std::move(started.error()));
    }
    const double cpu = cpu_seconds();
    const auto begin = std::chrono::steady_clock::now();
    if (Result<void> done = work(); !done) {
        return std::unexpected(std::move(done.error()));
    }
    PushRun run;
    run.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    run.source_cpu = cpu_seconds() - cpu;
    auto stopped = ask(connection, {{"op", "stop"}}, "stopped", timeout);
    if (!stopped) {
        return std::unexpected(std::move(stopped.error()));
    }
    if (const auto target = stopped->find("cpu_seconds"); target != stopped->end() && target->is_number()) {
        run.target_cpu = target->get<double>();
    }
    return run;
}

} // namespace pageferry::perf
