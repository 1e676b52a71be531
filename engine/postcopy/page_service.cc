#include "engine/postcopy/page_service.h"

#include <algorithm>
#include <utility>

namespace pageferry::engine {

namespace session = transport::session;
using std::chrono::milliseconds;

namespace {
constexpr milliseconds look{100}; // at the limit, which a user may change at any time
} // namespace

Result<void> PageService::tell_limit() {
    const std::uint64_t limit = page_.limits.postcopy_bandwidth.load(std::memory_order_relaxed);
    if (limit == told_limit_) {
        return {};
    }
    told_limit_ = limit;
    return peer_.send(session::PullLimit{.bytes_per_second = limit});
}

Result<std::optional<session::Message>> PageService::next(milliseconds wait) {
    if (told_limit_) {
        PAGEFERRY_TRY(tell_limit());
    }
    auto message = peer_.inbox().wait(delivered_ != nullptr ? milliseconds{0} : std::min(wait, look));
    if (message && !*message && delivered_ != nullptr) {
        PAGEFERRY_TRY(delivered_->tell_part());
        if (delivered_->all_told()) {
            delivered_ = nullptr;
        }
    }
    if (message && *message) {
        if (const auto* progress = std::get_if<session::PullProgress>(&**message)) {
            page_.progress.ram_remaining = progress->missing;
            page_.postcopy.bytes = progress->pulled;
            page_.postcopy.requests = progress->requests;
            return std::optional<session::Message>{};
        }
    }
    return message;
}

Result<void> PageService::until_received() {
    for (;;) {
        const auto message = next(look);
        if (!message) {
            return std::unexpected(message.error());
        }
        if (!*message) {
            continue;
        }
        if (!std::holds_alternative<session::Received>(**message)) {
            return std::unexpected(unexpected_message(**message, "serve pages"));
        }
        page_.progress.ram_remaining = 0;
        peer_.inbox().expect_end();
        return {};
    }
}

} // namespace pageferry::engine
