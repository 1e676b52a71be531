// The transports a side may use for one migration, in the order in which they are wanted, and what became of each.
//
// Pure; any thread.
#pragma once

#include "base/error.h"
#include "transport/connection.h"

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace pageferry::engine {

struct Candidate {
    std::string uri;
    Result<transport::Transport> transport; // or why its plugin did not load
};

// One that could not be used.
struct Attempt {
    std::string uri;
    std::string phase; // how far it came: "load", "listen", "open", "resolving address", ..., "hello", "memory"
    Error error;
};

// Which transport carries a migration, and which did not before it.
struct TransportUse {
    bool connected = false;    // false: none carries it yet; only the attempts tell something
    std::size_t candidate = 0; // its place in the list
    std::string uri;           // on a destination with the real port
    std::string name;          // of the plugin: "tcp"
    std::string connection;    // as the transport describes it
    unsigned lanes = 0;        // bulk lanes
    std::vector<Attempt> attempts;
};
using TellTransport = std::function<void(const TransportUse&)>;

// What is said where none could be used: the error of the last one, and with it shortly why not those before. A single one's
// error stays as it is.
Error none_left(const std::vector<Attempt>& attempts);

// Of an error before any RAM was agreed on: whether another transport to the same peer may do better. peer_said: it came as the
// peer's own word; what a peer refuses for its sake (session, version, RAM) it refuses by any transport.
bool another_may_do(const Error& error, bool peer_said);

} // namespace pageferry::engine
