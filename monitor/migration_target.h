// Where a migration goes to or comes from: the `uri`, `channels` or `uris` argument of migrate and migrate-incoming, and who
// carries it. `uris` is Pageferry's own: several ways to the same peer, in the order in which they are wanted.
//
// Pure; any thread.
#pragma once

#include "monitor/arguments.h"

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace pageferry::monitor {

struct MigrationTarget {
    enum class Carrier {
        pageferry, // schemes of ours; the URIs are well-formed
        qemu,      // fd:, exec:, file:, vsock: QEMU's own migration
    };
    Carrier carrier = Carrier::pageferry;
    std::vector<std::string> uris; // one or more; channels are written as one
};

// Whether some transport plugin carries this scheme.
using SchemeKnown = std::function<bool(const std::string& scheme)>;

// Asks the reader for `uri`, `channels` and `uris`, whether or not they are good; judge with resolve() after the reader's
// finish().
class TargetArguments {
public:
    explicit TargetArguments(Arguments& arguments);

    // QEMU's refusals: neither or both given, a list that is not one main channel, an unknown protocol; and for our own schemes
    // the URI parser's. Of `uris` each must be of ours.
    [[nodiscard]] Result<MigrationTarget> resolve(bool incoming, const SchemeKnown& scheme_known) const;

private:
    struct Channel {
        std::string type;
        std::string uri;
    };
    static Channel read_channel(Arguments& channel, Arguments& outer, const std::string& at);

    bool has_uri_ = false;
    bool has_channels_ = false;
    std::string uri_;
    std::vector<Channel> channels_;
    std::optional<std::vector<std::string>> uris_;
};

// The same for a URI alone, or several (migrate-recover).
Result<MigrationTarget> resolve_uri(const std::string& uri, const SchemeKnown& scheme_known);
Result<MigrationTarget> resolve_uris(const std::vector<std::string>& uris, const SchemeKnown& scheme_known);
// The argument `uris`; empty where it is absent or wrong.
std::optional<std::vector<std::string>> read_uris(Arguments& arguments);

} // namespace pageferry::monitor
