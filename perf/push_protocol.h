// What the two sides of `push` say to each other: one JSON object a control message, request and reply.
//
//   {"op": "setup", "size": BYTES, "fresh": BOOL}  ->  {"op": "ready"}         the target has its memory
//                                                                              "pull": true: filled as the source's, to be pulled
//   {"op": "start"}                                ->  {"op": "started"}       a run begins
//   {"op": "stop"}                                 ->  {"op": "stopped", "cpu_seconds": S}   since start
//   {"op": "verify"}                               ->  {"op": "verified"} or {"op": "error", "text": ...}
//   {"op": "end"}                                  ->  nothing; the target ends
// Any request may be answered with {"op": "error", "text": ...}.
//
// Threads: one for each end.
#pragma once

#include "base/error.h"
#include "transport/connection.h"

#include <nlohmann/json_fwd.hpp>

#include <chrono>

namespace pageferry::perf {

Result<void> say(transport::Connection& connection, const nlohmann::json& message, std::chrono::milliseconds timeout);
// protocol when what comes is no object with an "op"; timed_out when nothing comes.
Result<nlohmann::json> hear(transport::Connection& connection, std::chrono::milliseconds timeout);
// Says, and expects this reply; its error reply becomes an error.
Result<nlohmann::json> ask(transport::Connection& connection, const nlohmann::json& message, const char* reply,
                           std::chrono::milliseconds timeout);

} // namespace pageferry::perf
