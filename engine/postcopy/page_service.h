// The source in a postcopy: its RAM stands still, and the destination pulls what it needs, by the transport alone. What is left
// to do here is to tell the destination what it has already and how fast it may pull, to hear how far it has come, and to hear
// that it has everything.
//
// Threads: the engine's.
#pragma once

#include "engine/control_page.h"
#include "engine/peer.h"
#include "engine/postcopy/delivered_pages.h"
#include "transport/session/messages.h"

#include <chrono>
#include <cstdint>
#include <optional>
#include <variant>

namespace pageferry::engine {

class PageService {
public:
    // Both outlive it.
    PageService(Peer& peer, ControlPage& page) : peer_(peer), page_(page) {}

    // Before the destination may begin to pull; from then on it is told of every change.
    Result<void> tell_limit();
    // From here on the destination is told of what was not told yet, whenever there is no message of it. It outlives the service.
    void go_on_telling(DeliveredPages& delivered) { delivered_ = &delivered; }
    // The next message that is not about pulls, which must be a T.
    template <class T>
    Result<T> expect(std::chrono::milliseconds timeout);
    // Until the destination says Received.
    Result<void> until_received();

private:
    // Empty: none in time, or one about pulls.
    Result<std::optional<transport::session::Message>> next(std::chrono::milliseconds wait);

    Peer& peer_;
    ControlPage& page_;
    std::optional<std::uint64_t> told_limit_;
    DeliveredPages* delivered_ = nullptr; // none, or nothing of it is left
};

template <class T>
Result<T> PageService::expect(std::chrono::milliseconds timeout) {
    using Clock = std::chrono::steady_clock;
    namespace session = transport::session;
    const auto name = session::name_of(session::Message{T{}});
    for (const auto limit = Clock::now() + timeout; Clock::now() < limit;) {
        auto message = next(std::chrono::ceil<std::chrono::milliseconds>(limit - Clock::now()));
        if (!message) {
            return std::unexpected(std::move(message.error()));
        }
        if (!*message) {
            continue;
        }
        if (auto* wanted = std::get_if<T>(&**message)) {
            return std::move(*wanted);
        }
        return std::unexpected(unexpected_message(**message, "wait for " + std::string{name}));
    }
    return std::unexpected(no_message(name, timeout));
}

} // namespace pageferry::engine
