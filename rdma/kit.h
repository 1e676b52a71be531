// What this transport shares with every other plugin of the project: transport/plugin/.
#pragma once

namespace pageferry::plugin {}

namespace pageferry::rdma {
using namespace plugin; // NOLINT(google-build-using-namespace): one kit, two plugins, the same words
}
