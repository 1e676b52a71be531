#include "transport/plugin/fault.h"

#include <algorithm>
#include <cstring>
#include <string_view>

namespace pageferry::plugin {

namespace {

template <std::size_t Size>
void copy_text(char (&to)[Size], std::string_view from) {
    const std::size_t length = std::min(from.size(), Size - 1);
    std::ranges::copy(from.substr(0, length), to);
    to[length] = '\0';
}

void write(pf_error* out, pf_error full) {
    const std::uint32_t size = out->size;
    full.size = size;
    std::memcpy(out, &full, std::min<std::size_t>(size, sizeof full));
}

} // namespace

int answer(pf_error* out, const Fault& fault) {
    const int status = static_cast<int>(fault.error.code);
    if (out != nullptr) {
        pf_error full{};
        full.status = status;
        full.native = fault.error.native;
        full.lane = fault.lane;
        full.phase = fault.phase;
        copy_text(full.operation, fault.error.operation);
        copy_text(full.object, fault.error.object);
        copy_text(full.peer, fault.error.peer);
        copy_text(full.reason, fault.error.reason);
        copy_text(full.remedy, fault.error.remedy);
        write(out, full);
    }
    return status;
}

void clear(pf_error* out) {
    if (out != nullptr) {
        pf_error none{};
        none.lane = PF_LANE_NONE;
        write(out, none);
    }
}

} // namespace pageferry::plugin
