// Where a migration goes to or comes from: the `uri` or `channels` argument of migrate and migrate-incoming, and who carries it.
//
// Pure; any thread.
#pragma once

#include "monitor/arguments.h"

#include <functional>
#include <string>

namespace pageferry::monitor {

struct MigrationTarget {
    enum class Carrier {
        pageferry, // a scheme of ours; the URI is well-formed
        qemu,      // fd:, exec:, file:, vsock: QEMU's own migration
    };
    Carrier carrier = Carrier::pageferry;
    std::string uri; // channels are written as one
};

// Whether some transport plugin carries this scheme.
using SchemeKnown = std::function<bool(const std::string& scheme)>;

// Asks the reader for `uri` and `channels`, whether or not they are good; judge with resolve() after the reader's finish().
class TargetArguments {
public:
    explicit TargetArguments(Arguments& arguments);

    // QEMU's refusals: neither or both given, a list that is not one main channel, an unknown protocol; and for our own schemes
    // the URI parser's.
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
};

// The same for a URI alone (migrate-recover).
Result<MigrationTarget> resolve_uri(const std::string& uri, const SchemeKnown& scheme_known);

} // namespace pageferry::monitor
